//! Leases in the maps of a node's programs, as its agent would write them.

use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap};
use twill_abi::maps::{OVERLAY_ROUTES, VTEP_SOURCES, VTEPS};
use twill_abi::{Address, RouteKey, VTEP_FLAG_ACTIVE, Vtep};
use twill_testbed::wait::check_interrupt;
use twill_testbed::world::VNI;

use super::{PREFIX, Stranger};
use crate::pinned::open;

/// How many places at the beginning are left to the agent's own.
const TAKEN: u32 = 16;

/// Gives the programs pinned under `pins` leases of so many strangers. The maps must have room.
pub fn fill_maps(pins: &Path, count: u32) -> Result<()> {
    let mut vteps: Array<_, Vtep> = open(pins, &VTEPS)?.try_into()?;
    let mut sources: HashMap<_, Address, u32> = open(pins, &VTEP_SOURCES)?.try_into()?;
    let mut routes: HashMap<_, RouteKey, u32> = open(pins, &OVERLAY_ROUTES)?.try_into()?;
    for number in 0..count {
        if number % 1024 == 0 {
            check_interrupt()?;
        }
        let stranger = Stranger::number(number);
        let (underlay, network) = (stranger.underlay.into(), stranger.subnet.into());
        let vtep = Vtep {
            underlay,
            subnet: network,
            mac: stranger.mac,
            subnet_prefix: Address::V4_PREFIX_OFFSET + PREFIX,
            reserved: 0,
            vni: VNI,
            flags: VTEP_FLAG_ACTIVE,
            generation: 1,
            path_mtu: 0,
            subnet_mtu: 0,
            reserved_tail: 0,
        };
        let place = TAKEN + number;
        let write = || format!("write the lease of {}", stranger.prefix());
        vteps.set(place, vtep, 0).with_context(write)?;
        sources.insert(underlay, place, 0).with_context(write)?;
        let key = RouteKey { network };
        routes.insert(key, place, 0).with_context(write)?;
    }
    Ok(())
}
