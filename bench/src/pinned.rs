//! The maps of an agent that runs.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData};
use twill_abi::ABI_VERSION;
use twill_abi::maps::MapSpec;

/// Opens the map that the agent has pinned under `pins`.
pub(crate) fn open(pins: &Path, spec: &MapSpec) -> Result<Map> {
    let pin = pins.join(format!("v{ABI_VERSION}")).join(spec.name);
    let map = MapData::from_pin(&pin).and_then(Map::from_map_data);
    map.with_context(|| format!("open {}", pin.display()))
}
