//! The BPF file system that the pins live in.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use thiserror::Error;
use tracing::{info, warn};

/// What `/proc/PID/ns/pid` leads to on the host (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Why there is no BPF file system.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// The folder cannot be looked at.
    #[error("no BPF file system at {path}: look at the folder")]
    Stat {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// Nothing is mounted there and we may not do it.
    #[error("no BPF file system at {path}, and mounting one there failed")]
    Mount {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// Something else is mounted there, on top of what we mounted.
    #[error("no BPF file system at {path}, not even after mounting one there")]
    Hidden {
        /// The folder.
        path: PathBuf,
    },
}

/// Makes sure that a BPF file system is mounted at `path`. What is mounted already is
/// used as it is: a second mount on top would hide the pins of everybody else.
pub fn ensure(path: &Path) -> Result<(), BpffsError> {
    if is_bpffs(path)? {
        return Ok(());
    }
    mount(
        Some("bpf"),
        path,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|source| BpffsError::Mount {
        path: path.to_owned(),
        source,
    })?;
    if !is_bpffs(path)? {
        return Err(BpffsError::Hidden {
            path: path.to_owned(),
        });
    }
    info!(path = %path.display(), "BPF file system mounted");
    if let Ok(false) = outlives_us(path) {
        warn!(
            path = %path.display(),
            "the BPF file system was mounted in a mount namespace that is not the host's: its pins, and with \
             them the programs, go when that namespace goes; mount it on the host instead, in a pod by a \
             volume with mountPropagation Bidirectional"
        );
    }
    Ok(())
}

/// Whether `path` is on a BPF file system (a plain folder answers everything but pins).
pub fn is_bpffs(path: &Path) -> Result<bool, BpffsError> {
    let answer = statfs(path).map_err(|source| BpffsError::Stat {
        path: path.to_owned(),
        source,
    })?;
    Ok(answer.filesystem_type() == BPF_FS_MAGIC)
}

/// Whether what was mounted there is there when our mount namespace is gone: because that is the
/// host's, or because it is told to the host's as well.
fn outlives_us(path: &Path) -> io::Result<bool> {
    let namespace = |name: &str| std::fs::read_link(format!("/proc/{name}"));
    // Process 1 of a container is no init: its namespaces are the container's.
    let is_host = namespace("self/ns/pid")? == Path::new(INITIAL_PID_NAMESPACE)
        && namespace("self/ns/mnt")? == namespace("1/ns/mnt")?;
    Ok(is_host || is_shared(&std::fs::read_to_string("/proc/self/mountinfo")?, path))
}

/// Whether the last mount at `path` has peers (`man 5 proc_pid_mountinfo`).
fn is_shared(mountinfo: &str, path: &Path) -> bool {
    let mount = mountinfo.lines().rev().map(|line| {
        let fields = line.split(' ');
        fields.take_while(|field| *field != "-").collect::<Vec<_>>()
    });
    let mut here = mount.filter(|fields| fields.get(4).is_some_and(|at| Path::new(at) == path));
    let optional = here.next().unwrap_or_default();
    optional
        .iter()
        .skip(6)
        .any(|field| field.starts_with("shared:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_with_peers_is_known() {
        let mounts = "\
29 1 0:26 / / rw,relatime - ext4 /dev/root rw
30 29 0:27 / /sys/fs/bpf rw,nosuid shared:9 master:2 - bpf bpf rw,mode=700
31 29 0:28 / /run/bpf rw,nosuid master:2 - bpf bpf rw
";
        for (path, expected) in [
            ("/sys/fs/bpf", true),
            ("/run/bpf", false),
            ("/other", false),
        ] {
            assert_eq!(is_shared(mounts, Path::new(path)), expected, "{path}");
        }
        // The last one there is the one that is seen.
        let above = format!("{mounts}32 30 0:29 / /sys/fs/bpf rw - bpf bpf rw\n");
        assert!(!is_shared(&above, Path::new("/sys/fs/bpf")));
    }
}
