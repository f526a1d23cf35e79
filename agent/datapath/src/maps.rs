//! The maps that say who is where: read whole, written one entry at a time.
//!
//! Entries are taken for what they say only if they say it as this agent would: anything
//! else is reported as a VTEP that is nowhere, so that the plan writes it again.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use ipnetwork::IpNetwork;
use nix::time::{ClockId, clock_gettime};
use thiserror::Error;
use twill_abi::maps::{CONFIG, ODD_ROUTES, OVERLAY_ROUTES, VTEP_SOURCES, VTEPS};
use twill_abi::{
    Address, CONFIG_FLAG_EXCLUSIONS, CONFIG_FLAG_GUARD_AT_TC, CONFIG_KEY_AGENT,
    CONFIG_KEY_OPERATOR, Config, MapSpec, Mode, RouteKey, Vtep,
};
use twill_core::observed::ObservedMaps;
use twill_core::plan::MapOp;
use twill_core::subnet::Subnet;

use super::Sizes;
use super::operator::Override;
use super::settings::Settings;
use super::vtep_entry::{self, mapped_prefix, remote};

/// How long a permit shall stay where there are more flows than there is room for: new ones are
/// made no faster than would fill the map once in this time, nanoseconds.
const STAY_NS: u64 = 1_000_000_000;

/// The value of `permit_pace_ns` for maps with room for so many permits. CPUs share it evenly,
/// for they cannot count together without waiting for each other.
fn permit_pace(permits: u32, cpus: u64) -> u32 {
    let pace = STAY_NS.saturating_mul(cpus) / u64::from(permits.max(1));
    u32::try_from(pace).unwrap_or(u32::MAX)
}

/// What flows are hashed with: any number, from the system's chance.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// How many CPUs may run programs; where that cannot be read, as few as there can be.
fn online_cpus() -> u64 {
    aya::util::online_cpus().map_or(1, |cpus| cpus.len().max(1) as u64)
}

/// The flag of the settings that says where the guard is.
const fn guard_flag(at_tc: bool) -> u32 {
    if at_tc { CONFIG_FLAG_GUARD_AT_TC } else { 0 }
}

/// How many bits of an address in the map's form come before an IPv4 prefix.
pub(super) const V4_OFFSET: u8 = Address::V4_PREFIX_OFFSET;

/// The maps of the control plane, open.
pub struct Maps {
    config: Array<MapData, Config>,
    vteps: Array<MapData, Vtep>,
    sources: HashMap<MapData, Address, u32>,
    routes: HashMap<MapData, RouteKey, u32>,
    odd_routes: LpmTrie<MapData, Address, u32>,
    route_capacity: u32,
    permit_pace_ns: u32,
}

/// What went wrong with a map.
#[derive(Debug, Error)]
pub enum MapsError {
    /// The object or the pins lack a map.
    #[error("the map {0} is not there")]
    Missing(&'static str),
    /// A map has another shape than the ABI says.
    #[error("open the map {map}")]
    Open {
        /// Its name.
        map: &'static str,
        /// What is wrong.
        #[source]
        source: MapError,
    },
    /// An entry cannot be read.
    #[error("read the map {map}")]
    Read {
        /// Its name.
        map: &'static str,
        /// Why not.
        #[source]
        source: MapError,
    },
    /// An entry cannot be written.
    #[error("write {what} into the map {map}")]
    Write {
        /// Its name.
        map: &'static str,
        /// Which entry.
        what: String,
        /// Why not.
        #[source]
        source: MapError,
    },
    /// The monotonic clock cannot be read.
    #[error("read the monotonic clock")]
    Clock(#[source] nix::errno::Errno),
}

impl Maps {
    /// Takes the maps out of `take(name)`, whose shape was verified.
    pub fn open(
        sizes: &Sizes,
        mut take: impl FnMut(&'static str) -> Result<Map, MapsError>,
    ) -> Result<Self, MapsError> {
        Ok(Self {
            config: typed(&CONFIG, &mut take)?,
            vteps: typed(&VTEPS, &mut take)?,
            sources: typed(&VTEP_SOURCES, &mut take)?,
            routes: typed(&OVERLAY_ROUTES, &mut take)?,
            odd_routes: typed(&ODD_ROUTES, &mut take)?,
            route_capacity: sizes.routes,
            permit_pace_ns: permit_pace(sizes.permits, online_cpus()),
        })
    }

    /// The agent's settings as they are.
    pub fn config(&self) -> Result<Config, MapsError> {
        self.config_at(CONFIG_KEY_AGENT)
    }

    /// The mode that the operator asked for; [`None`] if nothing.
    pub fn operator_mode(&self) -> Result<Option<Mode>, MapsError> {
        Ok(Override::of(&self.config_at(CONFIG_KEY_OPERATOR)?).mode)
    }

    /// Takes over what the operator asked for, into maps that take the place of others.
    pub fn keep_operator(&mut self, asked: Override) -> Result<(), MapsError> {
        let mut config = self.config_at(CONFIG_KEY_OPERATOR)?;
        asked.write(&mut config);
        self.config
            .set(CONFIG_KEY_OPERATOR, config, 0)
            .map_err(write(CONFIG.name, "the operator's override"))
    }

    fn config_at(&self, key: u32) -> Result<Config, MapsError> {
        self.config.get(&key, 0).map_err(|source| MapsError::Read {
            map: CONFIG.name,
            source,
        })
    }

    /// Writes the agent's settings, with a new sign of life. `excludes`: whether the map `excluded`
    /// is to be asked. `guard_at_tc`: whether `from_uplink` does the guard's work; [`None`]: as it
    /// was, and in new maps it does.
    pub fn write_settings(
        &mut self,
        settings: &Settings,
        excludes: bool,
        guard_at_tc: Option<bool>,
    ) -> Result<(), MapsError> {
        let before = self.config()?;
        let generation = before.generation.wrapping_add(1);
        let was_at_tc = before.generation == 0 || before.flags & CONFIG_FLAG_GUARD_AT_TC != 0;
        let mut config = settings.to_config(monotonic_ns()?, generation);
        config.flags |= guard_flag(guard_at_tc.unwrap_or(was_at_tc));
        if excludes {
            config.flags |= CONFIG_FLAG_EXCLUSIONS;
        }
        config.flow_seed = match before.flow_seed {
            0 => seed(),
            seed => seed,
        };
        config.permit_pace_ns = self.permit_pace_ns;
        self.set_config(config)
    }

    /// Tells `from_uplink` whether the guard's work is its own.
    pub fn set_guard_at_tc(&mut self, at_tc: bool) -> Result<(), MapsError> {
        let mut config = self.config()?;
        let flags = config.flags & !CONFIG_FLAG_GUARD_AT_TC | guard_flag(at_tc);
        if flags == config.flags {
            return Ok(());
        }
        config.flags = flags;
        config.generation = config.generation.wrapping_add(1);
        self.set_config(config)
    }

    fn set_config(&mut self, config: Config) -> Result<(), MapsError> {
        self.config
            .set(CONFIG_KEY_AGENT, config, 0)
            .map_err(|source| MapsError::Write {
                map: CONFIG.name,
                what: "the agent's settings".to_owned(),
                source,
            })
    }

    /// Whether every key is one that this agent would write: otherwise the set is not
    /// continued but replaced.
    pub fn keys_are_ours(&self, common_prefix: u8) -> Result<bool, MapsError> {
        let config = self.config()?;
        // A set that was never filled has a zeroed configuration, and nothing to mistake.
        let same_prefix = config.generation == 0 || config.common_prefix_v4 == common_prefix;
        for key in self.routes.keys() {
            let network = key.map_err(read(OVERLAY_ROUTES.name))?.network;
            if subnet(network, common_prefix.saturating_add(V4_OFFSET)).is_none() {
                return Ok(false);
            }
        }
        for key in self.odd_routes.keys() {
            let key = key.map_err(read(ODD_ROUTES.name))?;
            let prefix = u8::try_from(key.prefix_len()).unwrap_or(u8::MAX);
            if subnet(key.data(), prefix).is_none() {
                return Ok(false);
            }
        }
        Ok(same_prefix)
    }

    /// Reads everything.
    pub fn observe(&self, vni: u32) -> Result<ObservedMaps, MapsError> {
        let common_prefix = self.config()?.common_prefix_v4.saturating_add(V4_OFFSET);
        let mut vteps = BTreeMap::new();
        let (mut path_mtus, mut subnet_mtus) = (BTreeMap::new(), BTreeMap::new());
        for (index, vtep) in (0..).zip(self.vteps.iter()) {
            let vtep = vtep.map_err(read(VTEPS.name))?;
            if let Some(remote) = remote(&vtep, vni) {
                vteps.insert(index, remote);
                if vtep.path_mtu != 0 {
                    path_mtus.insert(index, vtep.path_mtu);
                }
                if vtep.subnet_mtu != 0 {
                    subnet_mtus.insert(index, vtep.subnet_mtu);
                }
            }
        }
        let mut routes = BTreeMap::new();
        for entry in &self.routes {
            let (key, index) = entry.map_err(read(OVERLAY_ROUTES.name))?;
            if let Some(subnet) = subnet(key.network, common_prefix) {
                routes.insert(subnet, index);
            }
        }
        for entry in &self.odd_routes {
            let (key, index) = entry.map_err(read(ODD_ROUTES.name))?;
            let prefix = u8::try_from(key.prefix_len()).unwrap_or(u8::MAX);
            if let Some(subnet) = subnet(key.data(), prefix) {
                routes.insert(subnet, index);
            }
        }
        let mut sources = BTreeMap::new();
        for entry in &self.sources {
            let (address, index) = entry.map_err(read(VTEP_SOURCES.name))?;
            sources.insert(IpAddr::from(address), index);
        }
        Ok(ObservedMaps {
            vteps,
            path_mtus,
            subnet_mtus,
            routes,
            sources,
            vtep_capacity: self.vteps.len(),
            route_capacity: self.route_capacity,
        })
    }

    /// Subnets that are behind each VTEP, with its index and where it is, for people.
    pub fn vtep(&self, index: u32) -> Result<Vtep, MapsError> {
        self.vteps.get(&index, 0).map_err(read(VTEPS.name))
    }

    /// Does one step. `vni` and `common_prefix` are the network's.
    pub fn apply(&mut self, op: &MapOp, vni: u32, common_prefix: u8) -> Result<(), MapsError> {
        match *op {
            MapOp::SetVtep {
                index,
                vtep,
                subnet,
            } => {
                let before = self.vtep(index)?;
                vtep_entry::set(&before, vtep, subnet, vni)
                    .into_iter()
                    .try_for_each(|value| self.set_vtep(index, value))
            }
            MapOp::ClearVtep { index } => {
                let value = vtep_entry::clear(&self.vtep(index)?);
                self.set_vtep(index, value)
            }
            MapOp::SetPathMtu { index, bytes } => {
                let value = vtep_entry::with_path_mtu(&self.vtep(index)?, bytes);
                self.set_vtep(index, value)
            }
            MapOp::SetSubnetMtu { index, bytes } => {
                let value = vtep_entry::with_subnet_mtu(&self.vtep(index)?, bytes);
                self.set_vtep(index, value)
            }
            MapOp::SetSource { underlay, index } => self
                .sources
                .insert(Address::from(underlay), index, 0)
                .map_err(write(VTEP_SOURCES.name, underlay)),
            MapOp::RemoveSource { underlay } => gone(self.sources.remove(&Address::from(underlay)))
                .map_err(write(VTEP_SOURCES.name, underlay)),
            MapOp::SetRoute { subnet, index } => {
                if is_common(subnet, common_prefix) {
                    self.routes
                        .insert(route_key(subnet), index, 0)
                        .map_err(write(OVERLAY_ROUTES.name, subnet))
                } else {
                    self.odd_routes
                        .insert(&odd_key(subnet), index, 0)
                        .map_err(write(ODD_ROUTES.name, subnet))
                }
            }
            MapOp::RemoveRoute { subnet } => {
                if is_common(subnet, common_prefix) {
                    gone(self.routes.remove(&route_key(subnet)))
                        .map_err(write(OVERLAY_ROUTES.name, subnet))
                } else {
                    gone(self.odd_routes.remove(&odd_key(subnet)))
                        .map_err(write(ODD_ROUTES.name, subnet))
                }
            }
        }
    }

    fn set_vtep(&mut self, index: u32, entry: Vtep) -> Result<(), MapsError> {
        self.vteps
            .set(index, entry, 0)
            .map_err(write(VTEPS.name, index))
    }
}

/// The map that `spec` describes, out of `take(name)`, as the type that its user reads it by.
pub(super) fn typed<T>(
    spec: &MapSpec,
    mut take: impl FnMut(&'static str) -> Result<Map, MapsError>,
) -> Result<T, MapsError>
where
    T: TryFrom<Map, Error = MapError>,
{
    T::try_from(take(spec.name)?).map_err(|source| MapsError::Open {
        map: spec.name,
        source,
    })
}

/// `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns()`, in nanoseconds.
pub fn monotonic_ns() -> Result<u64, MapsError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(MapsError::Clock)?;
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec()).unwrap_or(0);
    Ok(seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds))
}

/// The subnet that a key stands for, if it is one: host bits zero, prefix in range.
pub(super) fn subnet(network: Address, mapped_prefix: u8) -> Option<Subnet> {
    let address = IpAddr::from(network);
    let prefix = if network.is_v4() {
        mapped_prefix.checked_sub(V4_OFFSET)?
    } else {
        mapped_prefix
    };
    let parsed = IpNetwork::new(address, prefix).ok()?;
    (parsed.network() == address).then(|| Subnet::containing(parsed))
}

fn is_common(subnet: Subnet, common_prefix: u8) -> bool {
    subnet.network().is_ipv4() && subnet.prefix() == common_prefix
}

fn route_key(subnet: Subnet) -> RouteKey {
    RouteKey {
        network: Address::from(subnet.network()),
    }
}

fn odd_key(subnet: Subnet) -> Key<Address> {
    Key::new(
        u32::from(mapped_prefix(subnet)),
        Address::from(subnet.network()),
    )
}

pub(super) fn read(map: &'static str) -> impl Fn(MapError) -> MapsError {
    move |source| MapsError::Read { map, source }
}

pub(super) fn write(map: &'static str, what: impl ToString) -> impl FnOnce(MapError) -> MapsError {
    move |source| MapsError::Write {
        map,
        what: what.to_string(),
        source,
    }
}

/// Removing what is not there is done already.
pub(super) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn all_cpus_together_fill_the_map_once_in_a_second() {
        assert_eq!(permit_pace(65_536, 2), 30_517);
        assert_eq!(permit_pace(65_536, 64), 976_562);
        assert_eq!(permit_pace(64, 2), 31_250_000);
        assert_eq!(permit_pace(1, 128), u32::MAX);
    }

    #[test]
    fn a_key_with_host_bits_is_no_subnet() {
        let network = Address::from(Ipv4Addr::new(10, 244, 2, 0));
        assert_eq!(subnet(network, 120), "10.244.2.0/24".parse().ok());
        assert_eq!(subnet(network, 118), None);
        assert_eq!(subnet(network, 95), None);
        assert_eq!(subnet(network, 129), None);
        let network = Address::from("fd00::".parse::<IpAddr>().unwrap());
        assert_eq!(subnet(network, 48), "fd00::/48".parse().ok());
        assert_eq!(subnet(network, 129), None);
    }
}
