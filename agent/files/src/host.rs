//! What the agent reads of its host.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use super::FileError;

const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const BRIDGE_NETFILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
const RANDOM: &str = "/dev/urandom";

/// The lowest and the highest of the ports that this host takes for itself, from which the
/// kernel's vxlan takes its source ports as well.
pub fn local_port_range() -> Result<(u16, u16), FileError> {
    let path = Path::new(PORT_RANGE);
    let text = fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    port_range(&text).ok_or_else(|| FileError::Content {
        path: path.to_owned(),
        why: format!("{text:?} is not two ports, the lower one first"),
    })
}

/// Whether `iptables` can see what a bridge forwards. Without the module a Service whose backend
/// is a pod on the same node answers past kube-proxy's NAT, and so nobody understands it.
pub fn bridge_netfilter() -> Result<(), FileError> {
    stat(Path::new(BRIDGE_NETFILTER))
}

fn stat(path: &Path) -> Result<(), FileError> {
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(source) => Err(FileError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A locally administered unicast MAC address, as flannel makes one for a new device.
pub fn random_mac() -> Result<[u8; 6], FileError> {
    let path = Path::new(RANDOM);
    let mut bytes = [0; 6];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| FileError::Read {
            path: path.to_owned(),
            source,
        })?;
    let [first, ..] = &mut bytes;
    *first = (*first & !1) | 2;
    Ok(bytes)
}

/// The driver of an interface, as `virtio_net`; `None` where it has none, or sysfs does not tell.
pub fn driver(interface: &str) -> Option<String> {
    let link = Path::new("/sys/class/net")
        .join(interface)
        .join("device/driver");
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

pub(super) fn port_range(text: &str) -> Option<(u16, u16)> {
    let mut ports = text.split_whitespace().map(str::parse::<u16>);
    let (low, high) = (ports.next()?.ok()?, ports.next()?.ok()?);
    (ports.next().is_none() && low < high).then_some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_ports() {
        assert_eq!(port_range("32768\t60999\n"), Some((32_768, 60_999)));
        for bad in ["", "1", "2 1", "1 2 3", "a b", "1 70000", "5 5"] {
            assert_eq!(port_range(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_module_that_is_not_loaded_is_named_by_its_setting() {
        let root = tempfile::tempdir().unwrap();
        assert!(stat(root.path()).is_ok());
        let error = stat(&root.path().join("bridge-nf-call-iptables")).unwrap_err();
        let text = error.to_string();
        assert!(text.ends_with("/bridge-nf-call-iptables"), "{text}");
    }

    #[test]
    fn a_random_mac_is_local_and_unicast() {
        for _ in 0..100 {
            let [first, ..] = random_mac().unwrap();
            assert_eq!(first & 3, 2);
        }
    }
}
