//! Where the settings of the network are.

/// Folders that stand for `/proc/sys/net`, the first that is there is used. In a container that
/// is not privileged `/proc/sys` can only be read, and nothing may be mounted inside of it: our
/// manifests have the host's folder at the first place, as Cilium's have it.
pub const NET_FOLDERS: [&str; 2] = ["/host/proc/sys/net", "/proc/sys/net"];
