//! Who sent VXLAN here and is no VTEP, as the guard remembers it.

use std::net::IpAddr;

use aya::maps::{HashMap, MapData};
use twill_abi::maps::STRANGERS;
use twill_abi::{Address, Reason, Stranger};

use super::maps::{MapsError, monotonic_ns};
use super::pins::Pins;
use super::reader::{self, ReaderError};

/// What is remembered of one address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sighting {
    /// The outer source, which may be invented.
    pub address: IpAddr,
    /// Packets since it is remembered.
    pub packets: u64,
    /// Packets of these that were dropped.
    pub dropped: u64,
    /// Seconds since the first one.
    pub first_seconds_ago: u64,
    /// Seconds since the last one.
    pub last_seconds_ago: u64,
    /// Interface index that the last one came by.
    pub ifindex: u32,
    /// What was wrong with the last one first of all.
    pub reason: Option<Reason>,
}

/// Everybody who is remembered, the last one first. Reads the pinned map and nothing else.
pub fn read(pins: &Pins) -> Result<Vec<Sighting>, ReaderError> {
    let map = reader::open(pins, &STRANGERS)?;
    let map: HashMap<MapData, Address, Stranger> =
        map.try_into().map_err(|source| MapsError::Open {
            map: STRANGERS.name,
            source,
        })?;
    let now = monotonic_ns()?;
    let mut found = Vec::new();
    for entry in &map {
        let (address, stranger) = entry.map_err(|source| MapsError::Read {
            map: STRANGERS.name,
            source,
        })?;
        found.push((stranger.last_ns, sighting(address, &stranger, now)));
    }
    found.sort_by_key(|&(last, sighting)| (std::cmp::Reverse(last), sighting.address));
    Ok(found.into_iter().map(|(_, sighting)| sighting).collect())
}

fn sighting(address: Address, stranger: &Stranger, now: u64) -> Sighting {
    let ago = |then: u64| now.saturating_sub(then) / 1_000_000_000;
    let Stranger {
        first_ns,
        last_ns,
        packets,
        dropped,
        ifindex,
        reason,
        reserved: _,
    } = *stranger;
    Sighting {
        address: address.into(),
        packets,
        dropped,
        first_seconds_ago: ago(first_ns),
        last_seconds_ago: ago(last_ns),
        ifindex,
        reason: Reason::from_number(reason.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let address = Ipv4Addr::new(203, 0, 113, 9);
        let stranger = Stranger {
            first_ns: 2_000_000_000,
            last_ns: 9_500_000_000,
            packets: 7,
            dropped: 5,
            ifindex: 2,
            reason: Reason::UnknownVtep as u16,
            reserved: 0,
        };
        let told = sighting(address.into(), &stranger, 12_000_000_000);
        assert_eq!((told.first_seconds_ago, told.last_seconds_ago), (10, 2));
        assert_eq!((told.packets, told.dropped, told.ifindex), (7, 5, 2));
        assert_eq!(told.address, IpAddr::from(address));
        assert_eq!(told.reason, Some(Reason::UnknownVtep));
        // A number of a later version, and a clock that was read before the packet came.
        let odd = Stranger {
            reason: u16::MAX,
            ..stranger
        };
        let told = sighting(address.into(), &odd, 0);
        assert_eq!((told.reason, told.last_seconds_ago), (None, 0));
    }
}
