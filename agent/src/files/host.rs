//! What the agent reads of its host.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use super::FileError;

const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
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

fn port_range(text: &str) -> Option<(u16, u16)> {
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
    fn a_random_mac_is_local_and_unicast() {
        for _ in 0..100 {
            let [first, ..] = random_mac().unwrap();
            assert_eq!(first & 3, 2);
        }
    }
}
