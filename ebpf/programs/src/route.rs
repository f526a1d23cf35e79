//! Which VTEP a destination lies behind; the cost does not depend on how many there are.

use twill_abi::{Address, Be32, CONFIG_FLAG_ODD_ROUTES, Config, VTEP_FLAG_ACTIVE, Vtep};

use crate::maps;

/// The first `prefix` bits of an address.
#[inline(always)]
pub fn masked(address: Be32, prefix: u8) -> Be32 {
    let shift = 32 - u32::from(prefix & 63);
    let mask = if shift >= 32 {
        0
    } else {
        u32::MAX << (shift & 31)
    };
    Be32::from_host(address.to_host() & mask)
}

/// Index of the VTEP behind `destination`.
#[inline(always)]
pub fn lookup(config: &Config, destination: Be32) -> Option<u32> {
    let common = masked(destination, config.common_prefix_v4);
    if let Some(index) = maps::route(Address::from_v4(common)) {
        return Some(index);
    }
    if config.flags & CONFIG_FLAG_ODD_ROUTES != 0 {
        return maps::odd_route(Address::from_v4(destination));
    }
    None
}

/// The VTEP at an index, if the entry is in use.
#[inline(always)]
pub fn vtep(index: u32) -> Option<&'static Vtep> {
    maps::vtep(index).filter(|vtep| vtep.flags & VTEP_FLAG_ACTIVE != 0)
}

/// Whether an address lies in this node's own subnet.
#[inline(always)]
pub fn is_own(config: &Config, address: Be32) -> bool {
    masked(address, config.own_prefix_v4).to_network() == config.own_subnet.last_word().to_network()
}
