//! Filling the maps: what an agent and a running datapath would have put there.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData};
use nix::time::{ClockId, clock_gettime};
use twill_abi::maps::{
    CONFIG, LOCAL_PODS, MAPPINGS, ODD_ROUTES, OVERLAY_ROUTES, PENDING, PERMITS_POD, PERMITS_WIRE,
    VTEP_COUNTERS, VTEP_SOURCES, VTEP_STATE, VTEPS,
};
use twill_abi::{
    Address, Be16, CONFIG_FLAG_GUARD_AT_TC, CONFIG_FLAG_LEASES_COMPLETE, CONFIG_FLAG_TCP_PERMITS,
    CONFIG_KEY_AGENT, Config, FastPath, FlowTuple, LocalPod, Mapping, Mode, PERMIT_FLAG_DIRECT,
    Pending, Permit, Program, RouteKey, VTEP_FLAG_ACTIVE, Vtep, VtepState,
};

use super::branch::{BACKEND_PORT, Branch, FIRST_PORT, NAT_PORT, POD_PORT, SERVICE_PORT};
use super::lab::Devices;
use super::scene::{
    GATEWAY_MAC, MARK, NETWORK, NETWORK_PREFIX, NEXT_MAC, OWN_POD, OWN_UNDERLAY, OWN_VTEP_MAC,
    POD_MAC, PORT, PREFIX, SERVICE, Scene, UPLINK_MAC, VNI, VTEP_MAC, pod, subnet, underlay,
};

const TCP: u8 = 6;
/// Later than any run: times in the maps that shall not come are this.
const LATER_NS: u64 = u64::MAX / 2;
const SECOND_NS: u64 = 1_000_000_000;
/// Changes of a VTEP's entry, all alike.
const GENERATION: u32 = 7;

/// How many entries a map needs for a scene; none where its own size is enough.
pub(super) fn entries(name: &str, scene: Scene) -> Option<u32> {
    let vteps = [
        VTEPS.name,
        VTEP_STATE.name,
        VTEP_SOURCES.name,
        VTEP_COUNTERS.name,
        OVERLAY_ROUTES.name,
    ];
    let permits = [PERMITS_POD.name, PERMITS_WIRE.name, MAPPINGS.name];
    if vteps.contains(&name) {
        // With room, as an agent would leave it; place 0 is nobody's.
        return Some(
            (scene.leases + 2)
                .next_power_of_two()
                .max(VTEPS.max_entries),
        );
    }
    if permits.contains(&name) {
        // An LRU map begins to evict before it is full.
        let wanted = (scene.permits * 2).next_power_of_two();
        return Some(wanted.max(PERMITS_POD.max_entries));
    }
    (name == ODD_ROUTES.name).then_some(1)
}

/// Leases and other flows' permits: written once.
pub(super) fn fill(ebpf: &mut Ebpf, scene: Scene, devices: Devices) -> Result<()> {
    let mut vteps: Array<_, Vtep> = open(ebpf, VTEPS.name)?;
    for place in 1..=scene.leases {
        vteps.set(place, vtep(place), 0)?;
    }
    let mut states: Array<_, VtepState> = open(ebpf, VTEP_STATE.name)?;
    for place in 1..=scene.leases {
        states.set(place, state(devices), 0)?;
    }
    let mut sources: HashMap<_, Address, u32> = open(ebpf, VTEP_SOURCES.name)?;
    for place in 1..=scene.leases {
        sources.insert(Address::from(underlay(place)), place, 0)?;
    }
    let mut routes: HashMap<_, RouteKey, u32> = open(ebpf, OVERLAY_ROUTES.name)?;
    for place in 1..=scene.leases {
        let network = subnet(place).into();
        routes.insert(RouteKey { network }, place, 0)?;
    }
    let mut permits: HashMap<_, FlowTuple, Permit> = open(ebpf, PERMITS_POD.name)?;
    for number in 0..scene.permits {
        // Other pods of the own node; the ports tell them apart.
        let [_, _, high, low] = number.to_be_bytes();
        let port = u16::from_be_bytes([high, low]);
        let mut pod = tuple(port, pod(1), BACKEND_PORT);
        pod.local = std::net::Ipv4Addr::from_bits(OWN_POD.to_bits() + 2 + (number >> 16)).into();
        permits.insert(pod, permit(pod, pod, devices), 0)?;
    }
    Ok(())
}

/// What a branch needs, and what another may have changed: written before each round of it.
pub(super) fn prepare(ebpf: &mut Ebpf, branch: Branch, devices: Devices) -> Result<()> {
    let (mode, fast_path) = branch.settings();
    let mut configs: Array<_, Config> = open(ebpf, CONFIG.name)?;
    let mut config = Config {
        guard: branch.guard() as u32,
        heartbeat_ns: monotonic_ns()?,
        ..config(mode, fast_path, devices)
    };
    if branch.counter() == Program::Guard {
        // XDP does not ask.
        config.flags |= CONFIG_FLAG_GUARD_AT_TC;
    }
    configs.set(CONFIG_KEY_AGENT, config, 0)?;

    let mut states: Array<_, VtepState> = open(ebpf, VTEP_STATE.name)?;
    states.set(1, state(devices), 0)?;

    let plain = tuple(POD_PORT, pod(1), BACKEND_PORT);
    let to_service = tuple(NAT_PORT, SERVICE, SERVICE_PORT);
    let to_backend = tuple(NAT_PORT, pod(1), BACKEND_PORT);
    let mut permits: HashMap<_, FlowTuple, Permit> = open(ebpf, PERMITS_POD.name)?;
    let mut record = permit(plain, plain, devices);
    if fast_path == FastPath::Direct {
        record.flags = PERMIT_FLAG_DIRECT;
    }
    permits.insert(plain, record, 0)?;
    permits.insert(to_service, permit(to_service, to_backend, devices), 0)?;

    let now = monotonic_ns()?;
    let mut wire: HashMap<_, FlowTuple, Mapping> = open(ebpf, PERMITS_WIRE.name)?;
    wire.insert(to_backend, Mapping::new(to_service, devices.veth, now), 0)?;

    let mut places: HashMap<_, Address, LocalPod> = open(ebpf, LOCAL_PODS.name)?;
    let place = LocalPod {
        seen_ns: now,
        ifindex: devices.veth,
        pod_mac: POD_MAC,
        gateway_mac: GATEWAY_MAC,
    };
    places.insert(Address::from(OWN_POD), place, 0)?;

    // A test run's packet has no flow hash: what the pod sent is filed under 0. It is fresh for
    // a tenth of a second, which is many times as long as a round of one branch.
    let mut pending: HashMap<_, u32, Pending> = open(ebpf, PENDING.name)?;
    let note = Pending::new(&plain, devices.veth, GATEWAY_MAC, now);
    pending.insert(0, note, 0)?;
    Ok(())
}

/// Before each run: what the branch is to find out or to make itself, and has done in the last.
pub(super) fn forget(ebpf: &mut Ebpf, branch: Branch, devices: Devices) -> Result<()> {
    if branch == Branch::ToOverlayNextHop {
        let mut states: Array<_, VtepState> = open(ebpf, VTEP_STATE.name)?;
        let forgotten = VtepState {
            nexthop_until_ns: 0,
            ..state(devices)
        };
        states.set(1, forgotten, 0)?;
    }
    if branch == Branch::FromPodDirectFirst {
        // Heard a moment ago, however long the bench has run.
        let mut states: Array<_, VtepState> = open(ebpf, VTEP_STATE.name)?;
        states.set(1, state(devices), 0)?;
        let mut permits: HashMap<_, FlowTuple, Permit> = open(ebpf, PERMITS_POD.name)?;
        let flow = tuple(FIRST_PORT, pod(1), BACKEND_PORT);
        if permits.get(&flow, 0).is_ok() {
            permits.remove(&flow)?;
        }
    }
    Ok(())
}

fn open<'a, M>(ebpf: &'a mut Ebpf, name: &str) -> Result<M>
where
    M: TryFrom<&'a mut Map, Error = aya::maps::MapError>,
{
    let map = ebpf
        .map_mut(name)
        .with_context(|| format!("the object has no map {name}"))?;
    M::try_from(map).with_context(|| format!("open the map {name}"))
}

/// `CLOCK_MONOTONIC`, which is what the programs read, nanoseconds.
fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(now.tv_sec())? * SECOND_NS + u64::try_from(now.tv_nsec())?)
}

fn tuple(local_port: u16, remote: std::net::Ipv4Addr, remote_port: u16) -> FlowTuple {
    FlowTuple {
        local: OWN_POD.into(),
        remote: remote.into(),
        local_port: Be16::from_host(local_port),
        remote_port: Be16::from_host(remote_port),
        protocol: TCP,
        reserved: [0; 3],
    }
}

fn permit(pod: FlowTuple, wire: FlowTuple, devices: Devices) -> Permit {
    Permit {
        out_until_ns: LATER_NS,
        in_until_ns: LATER_NS,
        probe_out_at_ns: LATER_NS,
        probe_in_at_ns: LATER_NS,
        look_at_ns: LATER_NS,
        vtep: 1,
        vtep_generation: GENERATION,
        pod_mac: POD_MAC,
        gateway_mac: GATEWAY_MAC,
        sent_to_mac: GATEWAY_MAC,
        ..Permit::new(&pod, &wire, devices.veth, 1)
    }
}

fn vtep(place: u32) -> Vtep {
    Vtep {
        underlay: underlay(place).into(),
        subnet: subnet(place).into(),
        mac: VTEP_MAC,
        subnet_prefix: Address::V4_PREFIX_OFFSET + PREFIX,
        reserved: 0,
        vni: VNI,
        flags: VTEP_FLAG_ACTIVE,
        generation: GENERATION,
        path_mtu: 0,
        subnet_mtu: 0,
        reserved_tail: 0,
    }
}

fn state(devices: Devices) -> VtepState {
    VtepState {
        outer_permit_until_ns: 0,
        outer_probe_at_ns: 0,
        nexthop_until_ns: LATER_NS,
        nexthop_mac: packed(NEXT_MAC),
        source_mac: packed(UPLINK_MAC),
        ifindex: devices.uplink,
        path_mtu: 1500,
        generation: GENERATION,
        heard_at: monotonic_ns().map_or(0, VtepState::tick),
        disputed_until_ns: 0,
    }
}

fn packed(mac: [u8; 6]) -> u64 {
    let mut bytes = [0; 8];
    let (first, _) = bytes.split_at_mut(mac.len());
    first.copy_from_slice(&mac);
    u64::from_ne_bytes(bytes)
}

fn config(mode: Mode, fast_path: FastPath, devices: Devices) -> Config {
    Config {
        permit_ns: 10 * SECOND_NS,
        // Outer permits are a matter of time, not of cost: none is asked for.
        outer_permit_ns: 0,
        mode: mode as u32,
        fast_path: fast_path as u32,
        flags: CONFIG_FLAG_TCP_PERMITS | CONFIG_FLAG_LEASES_COMPLETE,
        vni: VNI,
        mark_bit: MARK,
        uplink_ifindex: devices.uplink,
        overlay_ifindex: devices.overlay,
        vxlan_port: Be16::from_host(PORT),
        source_port_min: 32_768,
        source_port_max: 61_000,
        common_prefix_v4: PREFIX,
        common_prefix_v6: 64,
        underlay: OWN_UNDERLAY.into(),
        own_subnet: subnet(0).into(),
        network: NETWORK.into(),
        vtep_mac: OWN_VTEP_MAC,
        own_prefix_v4: PREFIX,
        network_prefix_v4: NETWORK_PREFIX,
        generation: 1,
        ..Config::UNWRITTEN
    }
}

/// A map as it is, for reading.
pub(super) fn counters(
    ebpf: &Ebpf,
) -> Result<aya::maps::PerCpuArray<&MapData, twill_abi::Counter>> {
    let name = twill_abi::maps::COUNTERS_MAP.name;
    let map = ebpf
        .map(name)
        .with_context(|| format!("the object has no map {name}"))?;
    map.try_into()
        .with_context(|| format!("open the map {name}"))
}
