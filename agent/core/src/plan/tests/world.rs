//! Small worlds to plan in, and plans as short text.

use std::net::{IpAddr, Ipv4Addr};

use crate::backend::{Backend, Entry, LinkKind, LinkName, LinkSpec, Out, Peer, Route, VxlanLink};
use crate::config::VxlanConfig;
use crate::desired::{Desired, Ownership};
use crate::observed::{Observed, ObservedLink, ObservedMaps, ObservedRoute};
use crate::plan::{KernelOp, MapOp, Op, plan};
use crate::simulate::apply_op;
use crate::subnet::Subnet;
use crate::vtep::{MacAddr, RemoteVtep, Vni};

pub(super) fn parse<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap()
}

pub(super) fn subnet(n: u8) -> Subnet {
    parse(&format!("10.244.{n}.0/24"))
}

pub(super) fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

pub(super) fn underlay(n: u8) -> IpAddr {
    IpAddr::from([192, 168, 0, n])
}

/// The VTEP with the given MAC and underlay address.
pub(super) fn at(mac_number: u8, underlay_number: u8) -> RemoteVtep {
    RemoteVtep {
        underlay: underlay(underlay_number),
        mac: mac(mac_number),
    }
}

pub(super) fn vtep(n: u8) -> RemoteVtep {
    at(n, n)
}

pub(super) fn link_name() -> LinkName {
    "flannel.1".into()
}

pub(super) fn vxlan() -> VxlanConfig {
    VxlanConfig {
        vni: Vni::new(1).unwrap(),
        port: None,
        mtu: None,
        gbp: false,
        learning: false,
        direct_routing: false,
    }
}

fn link() -> LinkSpec {
    LinkSpec {
        name: link_name(),
        mtu: 1450,
        former_mtu: None,
        mac: mac(100),
        address: Some(parse("10.244.100.0/32")),
        kind: LinkKind::Vxlan(VxlanLink {
            vni: Vni::new(1).unwrap(),
            port: None,
            local: Ipv4Addr::new(192, 168, 0, 100),
            uplink_ifindex: 2,
            gbp: false,
            learning: false,
        }),
    }
}

pub(super) fn desired(peers: &[(Subnet, RemoteVtep)]) -> Desired {
    Desired {
        network: parse("10.244.0.0/16"),
        ownership: Ownership::Node,
        backend: Backend::Vxlan(vxlan()),
        link: Some(link()),
        peers: peers
            .iter()
            .map(|&(subnet, vtep)| (subnet, Peer::Vtep(vtep)))
            .collect(),
        complete: true,
    }
}

/// The link that carries the overlay.
pub(super) fn overlay(observed: &mut Observed) -> &mut ObservedLink {
    observed.kernel.links.get_mut(&link_name()).unwrap()
}

/// A node without a device, with empty maps of the given numbers of entries.
pub(super) fn fresh(vtep_capacity: u32, route_capacity: u32) -> Observed {
    Observed {
        maps: Some(ObservedMaps {
            vtep_capacity,
            route_capacity,
            ..ObservedMaps::default()
        }),
        ..Observed::default()
    }
}

pub(super) fn apply<'a>(observed: &mut Observed, ops: impl IntoIterator<Item = &'a Op>) {
    for op in ops {
        apply_op(observed, op);
    }
}

/// The node after the plan for these peers was carried out.
pub(super) fn settled(peers: &[(Subnet, RemoteVtep)]) -> Observed {
    let mut observed = fresh(64, 64);
    let ops = plan(&observed, &desired(peers)).ops;
    apply(&mut observed, &ops);
    observed
}

pub(super) fn route_via(gateway: &str, onlink: bool) -> ObservedRoute {
    ObservedRoute {
        gateway: Some(parse(gateway)),
        onlink,
    }
}

/// Entries on the device that look much like ours and are not.
pub(super) fn add_foreign(observed: &mut Observed) {
    let kernel = overlay(observed);
    kernel.fdb.extend([
        (MacAddr([0; 6]), parse("198.51.100.1")),
        (MacAddr([0x33, 0x33, 0, 0, 0, 1]), parse("198.51.100.1")),
        (mac(0xee), parse("198.51.100.2")),
    ]);
    kernel.routes.extend([
        (parse("172.16.0.0/16"), route_via("172.16.0.0", true)),
        (parse("10.244.201.0/24"), route_via("10.244.201.0", false)),
        (parse("10.244.202.0/24"), route_via("10.244.202.1", true)),
        (
            parse("10.244.203.0/24"),
            ObservedRoute {
                gateway: None,
                onlink: false,
            },
        ),
    ]);
    kernel.neighbors.extend([
        (parse("172.16.0.0"), mac(0xee)),
        (parse("10.244.201.9"), mac(0xed)),
        (parse("10.244.202.9"), MacAddr([0x33, 0x33, 0, 0, 0, 1])),
    ]);
    kernel.addresses.insert(parse("172.31.0.1/32"));
}

/// Plans, and compares with steps in short form.
#[track_caller]
pub(super) fn check(observed: &Observed, desired: &Desired, expected: &[&str]) {
    let ops = plan(observed, desired).ops;
    let steps: Vec<String> = ops.iter().map(describe).collect();
    assert_eq!(steps, expected);
}

fn describe(op: &Op) -> String {
    match op {
        Op::Kernel(op) => match op {
            KernelOp::Create(spec) => format!("create {}", spec.name),
            KernelOp::Remove { ifindex, .. } => format!("remove device {ifindex}"),
            KernelOp::SetMtu { mtu, .. } => format!("mtu {mtu}"),
            KernelOp::SetUp(_) => "up".to_owned(),
            KernelOp::AddAddress { address, .. } => format!("address {address}"),
            KernelOp::RemoveAddress { address, .. } => format!("remove address {address}"),
            KernelOp::Set(entry) => describe_entry(entry),
            KernelOp::Unset(Entry::Neighbor { address, .. }) => {
                format!("remove neighbor {address}")
            }
            KernelOp::Unset(Entry::Route(Route {
                subnet,
                out: Out::Overlay(_),
                ..
            })) => format!("remove route {subnet}"),
            KernelOp::Unset(entry) => format!("remove {}", describe_entry(entry)),
        },
        Op::Map(op) => match op {
            MapOp::SetVtep { index, vtep, .. } => {
                format!("vtep[{index}] = {} {}", last(vtep.mac), vtep.underlay)
            }
            MapOp::ClearVtep { index } => format!("clear vtep[{index}]"),
            MapOp::SetPathMtu { index, bytes } => format!("path mtu[{index}] = {bytes:?}"),
            MapOp::SetSubnetMtu { index, bytes } => format!("subnet mtu[{index}] = {bytes:?}"),
            MapOp::SetSource { underlay, index } => format!("source[{underlay}] = {index}"),
            MapOp::RemoveSource { underlay } => format!("remove source[{underlay}]"),
            MapOp::SetRoute { subnet, index } => format!("route[{subnet}] = {index}"),
            MapOp::RemoveRoute { subnet } => format!("remove route[{subnet}]"),
        },
    }
}

fn describe_entry(entry: &Entry) -> String {
    match entry {
        Entry::Neighbor { address, mac, .. } => format!("neighbor {address} {}", last(*mac)),
        Entry::Fdb { mac, underlay, .. } => format!("fdb {} {underlay}", last(*mac)),
        Entry::Route(Route { subnet, via, out }) => match out {
            Out::Overlay(_) => format!("route {subnet} via {via}"),
            Out::Underlay { .. } => format!("direct route {subnet} via {via}"),
        },
    }
}

/// `:5` for 02:00:00:00:00:05.
fn last(mac: MacAddr) -> String {
    format!(":{:x}", mac.0[5])
}
