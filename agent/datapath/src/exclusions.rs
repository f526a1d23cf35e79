//! Addresses of which no flow may be direct, in the map `excluded`.
//!
//! In the mode `permit` the table `inet twill` marks nothing of theirs. `direct` asks no table, so
//! its programs look here.

use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use ipnetwork::Ipv4Network;
use twill_abi::maps::EXCLUDED;
use twill_abi::{Address, FlowTuple, PERMIT_FLAG_DIRECT, Permit};

use super::maps::{MapsError, V4_OFFSET, gone, read, typed, write};

/// The map, and what it shall hold.
pub struct Exclusions {
    map: LpmTrie<MapData, Address, u32>,
    networks: Vec<Ipv4Network>,
    written: bool,
}

impl Exclusions {
    /// Takes the map out of `take(name)`, whose shape was verified.
    pub fn open(
        networks: &[Ipv4Network],
        mut take: impl FnMut(&'static str) -> Result<Map, MapsError>,
    ) -> Result<Self, MapsError> {
        Ok(Self {
            map: typed(&EXCLUDED, &mut take)?,
            networks: networks.to_vec(),
            written: false,
        })
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.networks.is_empty()
    }

    /// Makes the map hold the networks and nothing else; once, for they stay what they are as
    /// long as the agent lives. Whether that was now.
    pub fn write(&mut self) -> Result<bool, MapsError> {
        if self.written {
            return Ok(false);
        }
        let wanted: Vec<_> = self.networks.iter().copied().map(prefix).collect();
        let mut held = Vec::new();
        for found in self.map.keys() {
            let found = found.map_err(read(EXCLUDED.name))?;
            held.push((found.prefix_len(), found.data()));
        }
        for &(length, network) in wanted.iter().filter(|prefix| !held.contains(prefix)) {
            self.map
                .insert(&Key::new(length, network), 1, 0)
                .map_err(write(EXCLUDED.name, "an excluded network"))?;
        }
        for &(length, network) in held.iter().filter(|prefix| !wanted.contains(prefix)) {
            gone(self.map.remove(&Key::new(length, network)))
                .map_err(write(EXCLUDED.name, "the end of an exclusion"))?;
        }
        self.written = true;
        Ok(true)
    }

    /// Whether a record is one that would not be made any more.
    pub fn forbid(&self, tuple: &FlowTuple, permit: &Permit) -> bool {
        let excluded = |address: Address| match IpAddr::from(address) {
            IpAddr::V4(address) => self
                .networks
                .iter()
                .any(|network| network.contains(address)),
            IpAddr::V6(_) => false,
        };
        permit.flags & PERMIT_FLAG_DIRECT != 0 && (excluded(tuple.local) || excluded(tuple.remote))
    }
}

/// A network in the map's form.
fn prefix(network: Ipv4Network) -> (u32, Address) {
    let length = u32::from(network.prefix()) + u32::from(V4_OFFSET);
    (length, Address::from(network.network()))
}
