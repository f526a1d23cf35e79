//! The content of the maps: what a case starts with, and what it left behind.

use std::net::Ipv4Addr;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData};
use twill_abi::maps::{CONFIG, ODD_ROUTES, OVERLAY_ROUTES, VTEP_SOURCES, VTEP_STATE, VTEPS};
use twill_abi::{
    Address, Be16, CONFIG_FLAG_FAST_PATH, CONFIG_FLAG_ODD_ROUTES, CONFIG_KEY_AGENT,
    CONFIG_KEY_OPERATOR, Config, FastPath, Mode, RouteKey, VTEP_FLAG_ACTIVE, Vtep, VtepState,
};

use super::flow_tables::FlowTables;
use super::world::{
    FAR_NODE, NARROW_NODE, NODE_A, NODE_B, PORT, SIDE_NODE, SILENT_NODE, SOURCE_PORT,
    UNREACHABLE_NODE, VNI, VTEP_B, VTEP_FAR, VTEP_MAC_A, VTEP_NARROW, VTEP_OUTSIDE, VTEP_SIDE,
    VTEP_SILENT, VTEP_UNREACHABLE, VTEP_UNUSED, vtep_mac,
};

/// Capacity of every table in the tests.
pub(crate) const CAPACITY: u32 = 16;
/// `config.mark_bit` of the tests.
pub(crate) const MARK_BIT: u32 = 0x1000;

/// Every map but the counters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tables {
    /// The agent's settings.
    pub(crate) config: Config,
    /// The operator's override.
    pub(crate) operator: Config,
    /// Networks of the common prefix length, and their VTEPs; sorted.
    pub(crate) routes: Vec<(Address, u32)>,
    /// Other prefixes in the mapped form, and their VTEPs; sorted.
    pub(crate) odd_routes: Vec<(u32, Address, u32)>,
    /// Underlay addresses and their VTEPs; sorted.
    pub(crate) sources: Vec<(Address, u32)>,
    /// Remote VTEPs by their place.
    pub(crate) vteps: Vec<Vtep>,
    /// What the programs found out about them.
    pub(crate) states: Vec<VtepState>,
    /// What is remembered of flows and pods.
    pub(crate) flows: FlowTables,
}

impl Tables {
    /// The named world, all of it healthy, no next hop known.
    pub(crate) fn new(uplink: u32, overlay: u32) -> Self {
        let peers = [
            (VTEP_B, NODE_B),
            (VTEP_FAR, FAR_NODE),
            (VTEP_SILENT, SILENT_NODE),
            (VTEP_UNREACHABLE, UNREACHABLE_NODE),
            (VTEP_SIDE, SIDE_NODE),
            (VTEP_NARROW, NARROW_NODE),
        ];
        let mut vteps = vec![NO_VTEP; CAPACITY as usize];
        let mut states = vec![NO_STATE; CAPACITY as usize];
        for (place, underlay) in peers {
            vteps[place as usize] = vtep(place, underlay);
            // Met before, so that only what a case is about changes.
            states[place as usize].generation = vteps[place as usize].generation;
        }
        let mut routes: Vec<_> = peers
            .iter()
            .map(|&(place, _)| (subnet_of(place), place))
            .collect();
        routes.push((Ipv4Addr::new(10, 244, 200, 0).into(), VTEP_UNUSED));
        routes.push((Ipv4Addr::new(10, 244, 201, 0).into(), VTEP_OUTSIDE));
        let mut tables = Self {
            config: config(uplink, overlay),
            operator: Config::UNWRITTEN,
            routes,
            odd_routes: Vec::new(),
            sources: peers
                .map(|(place, underlay)| (underlay.into(), place))
                .into(),
            vteps,
            states,
            flows: FlowTables::default(),
        };
        tables.sort();
        tables
    }

    /// With the odd prefix `network`/`length` behind a VTEP.
    pub(crate) fn with_odd_route(mut self, network: Ipv4Addr, length: u8, place: u32) -> Self {
        let length = u32::from(length) + u32::from(Address::V4_PREFIX_OFFSET);
        self.odd_routes.push((length, network.into(), place));
        self.config.flags |= CONFIG_FLAG_ODD_ROUTES;
        self.sort();
        self
    }

    /// With the operator's word on who carries packets.
    pub(crate) fn with_operator(mut self, mode: Mode) -> Self {
        self.operator.mode = mode as u32;
        self
    }

    /// With the agent's word on who carries packets.
    pub(crate) fn with_mode(mut self, mode: Mode) -> Self {
        self.config.mode = mode as u32;
        self
    }

    /// With the operator's word on which flows may skip the host's stack.
    pub(crate) fn with_operator_fast_path(mut self, fast_path: u32) -> Self {
        self.operator.fast_path = fast_path;
        self.operator.flags = CONFIG_FLAG_FAST_PATH;
        self
    }

    /// With the agent's word on which flows may skip the host's stack.
    pub(crate) fn with_fast_path(mut self, fast_path: FastPath) -> Self {
        self.config.fast_path = fast_path as u32;
        self
    }

    fn sort(&mut self) {
        self.routes.sort_by_key(|route| (words(route.0), route.1));
        self.sources
            .sort_by_key(|source| (words(source.0), source.1));
        self.odd_routes
            .sort_by_key(|route| (route.0, words(route.1), route.2));
    }

    /// Makes the maps hold exactly this.
    pub(crate) fn write(&self, ebpf: &mut Ebpf) {
        self.write_config(ebpf);

        let mut vteps: Array<_, Vtep> = array(ebpf, VTEPS.name);
        (0..)
            .zip(&self.vteps)
            .for_each(|(place, &vtep)| set(&mut vteps, place, vtep));
        let mut states: Array<_, VtepState> = array(ebpf, VTEP_STATE.name);
        (0..)
            .zip(&self.states)
            .for_each(|(place, &state)| set(&mut states, place, state));

        let routes = self
            .routes
            .iter()
            .map(|&(network, place)| (RouteKey { network }, place));
        replace(ebpf, OVERLAY_ROUTES.name, routes);
        replace(ebpf, VTEP_SOURCES.name, self.sources.iter().copied());

        let mut odd: LpmTrie<_, Address, u32> = trie(ebpf);
        let keys: Vec<_> = odd
            .keys()
            .collect::<Result<_, _>>()
            .expect("keys of odd_routes");
        for key in keys {
            odd.remove(&key).expect("remove from odd_routes");
        }
        for &(length, network, place) in &self.odd_routes {
            odd.insert(&Key::new(length, network), place, 0)
                .expect("insert into odd_routes");
        }
        self.flows.write(ebpf);
    }

    /// Makes the settings be this, and leaves the other maps.
    pub(crate) fn write_config(&self, ebpf: &mut Ebpf) {
        let mut config: Array<_, Config> = array(ebpf, CONFIG.name);
        set(&mut config, CONFIG_KEY_AGENT, self.config);
        set(&mut config, CONFIG_KEY_OPERATOR, self.operator);
    }

    /// What the maps hold.
    pub(crate) fn read(ebpf: &mut Ebpf) -> Self {
        let config: Array<_, Config> = array(ebpf, CONFIG.name);
        let get = |key| config.get(&key, 0).expect("read config");
        let (config, operator) = (get(CONFIG_KEY_AGENT), get(CONFIG_KEY_OPERATOR));
        let vteps: Array<_, Vtep> = array(ebpf, VTEPS.name);
        let vteps = vteps.iter().collect::<Result<_, _>>().expect("read vteps");
        let states: Array<_, VtepState> = array(ebpf, VTEP_STATE.name);
        let states = states
            .iter()
            .collect::<Result<_, _>>()
            .expect("read vtep_state");
        let odd_routes = trie(ebpf)
            .iter()
            .map(|entry| entry.map(|(key, place)| (key.prefix_len(), key.data(), place)))
            .collect::<Result<_, _>>()
            .expect("read odd_routes");
        let routes: Vec<(RouteKey, u32)> = entries(ebpf, OVERLAY_ROUTES.name);
        let mut tables = Self {
            config,
            operator,
            routes: routes
                .into_iter()
                .map(|(key, place)| (key.network, place))
                .collect(),
            odd_routes,
            sources: entries(ebpf, VTEP_SOURCES.name),
            vteps,
            states,
            flows: FlowTables::read(ebpf),
        };
        tables.sort();
        tables
    }
}

/// Network address of the /24 subnet of a VTEP.
fn subnet_of(place: u32) -> Address {
    super::world::pod_of(place, 0).into()
}

fn words(Address(words): Address) -> [u32; 4] {
    words.map(twill_abi::Be32::to_host)
}

fn vtep(place: u32, underlay: Ipv4Addr) -> Vtep {
    Vtep {
        underlay: underlay.into(),
        subnet: subnet_of(place),
        mac: vtep_mac(place),
        subnet_prefix: Address::V4_PREFIX_OFFSET + 24,
        vni: VNI,
        flags: VTEP_FLAG_ACTIVE,
        generation: 100 + place,
        ..NO_VTEP
    }
}

fn config(uplink: u32, overlay: u32) -> Config {
    Config {
        // No outer permit is asked for.
        outer_permit_ns: 0,
        mode: Mode::Bpf as u32,
        fast_path: FastPath::Off as u32,
        vni: VNI,
        mark_bit: MARK_BIT,
        uplink_ifindex: uplink,
        overlay_ifindex: overlay,
        vxlan_port: Be16::from_host(PORT),
        source_port_min: SOURCE_PORT,
        source_port_max: SOURCE_PORT + 1,
        common_prefix_v4: 24,
        common_prefix_v6: 64,
        underlay: NODE_A.into(),
        own_subnet: Ipv4Addr::new(10, 244, 1, 0).into(),
        network: Ipv4Addr::new(10, 244, 0, 0).into(),
        vtep_mac: VTEP_MAC_A,
        own_prefix_v4: 24,
        network_prefix_v4: 16,
        generation: 1,
        ..Config::UNWRITTEN
    }
}

/// A zeroed `vteps` entry.
const NO_VTEP: Vtep = Vtep {
    underlay: Address::NOWHERE,
    subnet: Address::NOWHERE,
    mac: [0; 6],
    subnet_prefix: 0,
    reserved: 0,
    vni: 0,
    flags: 0,
    generation: 0,
    path_mtu: 0,
    subnet_mtu: 0,
    reserved_tail: 0,
};

/// A zeroed `vtep_state` entry.
pub(crate) const NO_STATE: VtepState = VtepState {
    outer_permit_until_ns: 0,
    outer_probe_at_ns: 0,
    nexthop_until_ns: 0,
    nexthop_mac: 0,
    source_mac: 0,
    ifindex: 0,
    path_mtu: 0,
    generation: 0,
    heard_at: 0,
    disputed_until_ns: 0,
};

fn array<'a, V: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> Array<&'a mut MapData, V> {
    let map = ebpf
        .map_mut(name)
        .unwrap_or_else(|| panic!("the object has no map {name}"));
    Array::try_from(map).unwrap_or_else(|error| panic!("open {name}: {error}"))
}

fn hash<'a, K: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> HashMap<&'a mut MapData, K, u32> {
    let map = ebpf
        .map_mut(name)
        .unwrap_or_else(|| panic!("the object has no map {name}"));
    HashMap::try_from(map).unwrap_or_else(|error| panic!("open {name}: {error}"))
}

fn trie(ebpf: &mut Ebpf) -> LpmTrie<&mut MapData, Address, u32> {
    let name = ODD_ROUTES.name;
    let map = ebpf
        .map_mut(name)
        .unwrap_or_else(|| panic!("the object has no map {name}"));
    LpmTrie::try_from(map).unwrap_or_else(|error| panic!("open {name}: {error}"))
}

fn set<V: aya::Pod>(map: &mut Array<&mut MapData, V>, place: u32, value: V) {
    map.set(place, value, 0).expect("write an array");
}

fn replace<K: aya::Pod>(ebpf: &mut Ebpf, name: &str, wanted: impl Iterator<Item = (K, u32)>) {
    let mut map = hash(ebpf, name);
    let keys: Vec<K> = map
        .keys()
        .collect::<Result<_, _>>()
        .expect("keys of a hash");
    for key in keys {
        map.remove(&key).expect("remove from a hash");
    }
    for (key, place) in wanted {
        map.insert(key, place, 0).expect("insert into a hash");
    }
}

fn entries<K: aya::Pod>(ebpf: &mut Ebpf, name: &str) -> Vec<(K, u32)> {
    hash(ebpf, name)
        .iter()
        .collect::<Result<_, _>>()
        .expect("read a hash")
}
