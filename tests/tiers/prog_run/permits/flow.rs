//! The flows of these tests, and their packets on both sides of a NAT.

use std::net::Ipv4Addr;

use twill_abi::{
    Address, Be16, CONFIG_FLAG_TCP_PERMITS, FastPath, FlowTuple, LocalPod, Mapping, Pending, Permit,
};
use twill_testbed::packet::{Ethernet, Ipv4, PROTOCOL_TCP, PROTOCOL_UDP, Tcp, Udp};

use crate::check::NextHop;
use crate::flow_tables::{FAR, FlowTables, NEVER, PAST, at};
use crate::lab::Lab;
use crate::packets::payload;
use crate::tables::Tables;
pub(crate) use crate::world::POD_MAC;
use crate::world::{POD_A1, POD_B1, VTEP_B};

/// How long a permit lasts in these tests, nanoseconds.
pub(crate) const PERMIT_NS: u64 = 8_000_000_000;
/// How often it is asked whether a record's pod is there, nanoseconds.
pub(crate) const LOOK_NS: u64 = 100_000_000;
/// What is found then: the MTU of the bridge and of the veth.
pub(crate) const POD_MTU: u16 = 1500;
/// MAC address that our pod sends to.
pub(crate) const BRIDGE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0a, 0x01];
/// TCP and UDP.
pub(crate) const PROTOCOLS: [u8; 2] = [PROTOCOL_TCP, PROTOCOL_UDP];

/// An address and a port, host order.
pub(crate) type Side = (Ipv4Addr, u16);
/// Our pod.
pub(crate) const CLIENT: Side = (POD_A1, 40_000);
/// A pod of node B.
pub(crate) const SERVER: Side = (POD_B1, 8080);
/// A Service that stands for [`SERVER`], port and all.
pub(crate) const SERVICE: Side = (Ipv4Addr::new(10, 96, 0, 10), 80);

/// The tuple of a flow, as its local pod sees it.
pub(crate) fn tuple(protocol: u8, local: Side, remote: Side) -> FlowTuple {
    FlowTuple {
        local: local.0.into(),
        remote: remote.0.into(),
        local_port: Be16::from_host(local.1),
        remote_port: Be16::from_host(remote.1),
        protocol,
        reserved: [0; 3],
    }
}

/// The flow between the two pods.
pub(crate) fn plain(protocol: u8) -> FlowTuple {
    tuple(protocol, CLIENT, SERVER)
}

/// What our pod sends to the Service.
pub(crate) fn to_service(protocol: u8) -> FlowTuple {
    tuple(protocol, CLIENT, SERVICE)
}

/// Every kind of NAT: what the pod sends to, which is [`SERVER`] on the wire.
pub(crate) const SEEN: [(&str, Side); 4] = [
    ("no NAT", SERVER),
    ("another address", (SERVICE.0, SERVER.1)),
    ("another port", (SERVER.0, SERVICE.1)),
    ("another address and port", SERVICE),
];

/// An IPv4 packet of a flow; its checksums are computed over the whole of it.
#[derive(Clone, Debug)]
pub(crate) struct Inner {
    /// IP header.
    pub(crate) ip: Ipv4,
    /// TCP header, where it is TCP.
    pub(crate) tcp: Tcp,
    /// UDP header, where it is UDP.
    pub(crate) udp: Udp,
    /// Payload.
    pub(crate) payload: Vec<u8>,
}

impl Inner {
    /// A packet that the local pod sends, as it comes out of the pod.
    pub(crate) fn sent(tuple: &FlowTuple) -> Self {
        Self::between(tuple.protocol, side(tuple, true), side(tuple, false))
    }

    /// A packet to the local pod, as it leaves the remote one's node.
    pub(crate) fn received(tuple: &FlowTuple) -> Self {
        let sent = Self::between(tuple.protocol, side(tuple, false), side(tuple, true));
        sent.with(|inner| inner.ip.ttl = 63)
    }

    fn between(protocol: u8, source: Side, destination: Side) -> Self {
        Self {
            ip: Ipv4 {
                id: 0x1234,
                protocol,
                ..Ipv4::new(source.0, destination.0)
            },
            tcp: Tcp::new(source.1, destination.1),
            udp: Udp::new(source.1, destination.1),
            payload: payload(101),
        }
    }

    /// With a change.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// One router further.
    pub(crate) fn routed(self) -> Self {
        self.with(|inner| inner.ip.ttl -= 1)
    }

    /// With these TCP flags.
    pub(crate) fn flagged(self, flags: u8) -> Self {
        self.with(|inner| inner.tcp.flags = flags)
    }

    /// The packet's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        if self.ip.protocol == PROTOCOL_UDP {
            self.ip.udp(&self.udp, &self.payload)
        } else {
            self.ip.tcp(&self.tcp, &self.payload)
        }
    }
}

/// One side of a tuple.
fn side(tuple: &FlowTuple, local: bool) -> Side {
    let (address, port) = if local {
        (tuple.local, tuple.local_port)
    } else {
        (tuple.remote, tuple.remote_port)
    };
    (v4(address), port.to_host())
}

/// The IPv4 address.
pub(crate) fn v4(address: Address) -> Ipv4Addr {
    Ipv4Addr::from(address.last_word().to_bytes())
}

/// A frame as it comes out of our pod.
pub(crate) fn out_of_pod(packet: &[u8]) -> Vec<u8> {
    Ethernet::ipv4(POD_MAC, BRIDGE_MAC).over(packet)
}

/// A frame as our pod gets it.
pub(crate) fn into_pod(packet: &[u8]) -> Vec<u8> {
    Ethernet::ipv4(BRIDGE_MAC, POD_MAC).over(packet)
}

/// The named world with permits on, and node B's next hop known.
pub(crate) fn permitting(lab: &Lab) -> Tables {
    let mut tables = lab.tables();
    tables.config.fast_path = FastPath::Permit as u32;
    tables.config.flags |= CONFIG_FLAG_TCP_PERMITS;
    tables.config.permit_ns = PERMIT_NS;
    let generation = tables.vteps[VTEP_B as usize].generation;
    tables.states[VTEP_B as usize] = NextHop::of_node_b(lab).known(generation, NEVER);
    tables
}

/// The same with these permits.
pub(crate) fn holding(lab: &Lab, permits: &[Permit]) -> Tables {
    let mut tables = permitting(lab);
    for permit in permits {
        tables.flows.file(*permit);
    }
    tables
}

/// A permit to node B that is accepted both ways, and far from any probe.
pub(crate) fn permit(lab: &Lab, pod: FlowTuple, wire: FlowTuple) -> Permit {
    Permit {
        out_until_ns: FAR,
        in_until_ns: FAR,
        probe_out_at_ns: FAR,
        look_at_ns: FAR,
        since_ns: PAST,
        vtep: VTEP_B,
        vtep_generation: lab.tables().vteps[VTEP_B as usize].generation,
        pod_mac: POD_MAC,
        gateway_mac: BRIDGE_MAC,
        sent_to_mac: BRIDGE_MAC,
        ..blank(lab, pod, wire)
    }
}

/// A permit that accepts nothing and leads nowhere.
pub(crate) fn blank(lab: &Lab, pod: FlowTuple, wire: FlowTuple) -> Permit {
    Permit::new(&pod, &wire, lab.veth, 0)
}

/// The packet has looked whether the pod is there, and it is.
pub(crate) fn looked(permit: &mut Permit) {
    permit.look_at_ns = at(LOOK_NS);
    permit.pod_mtu = POD_MTU;
}

/// A note of what our pod sent.
pub(crate) fn pending(lab: &Lab, tuple: FlowTuple, written_ns: u64) -> Pending {
    Pending::new(&tuple, lab.veth, BRIDGE_MAC, written_ns)
}

/// The place of our pod.
pub(crate) fn place(lab: &Lab, seen_ns: u64) -> LocalPod {
    LocalPod {
        seen_ns,
        ifindex: lab.veth,
        pod_mac: POD_MAC,
        gateway_mac: BRIDGE_MAC,
    }
}

/// The place of our pod by its own word: the stack has not delivered to it yet.
pub(crate) fn word(lab: &Lab) -> LocalPod {
    LocalPod {
        gateway_mac: [0; 6],
        ..place(lab, 0)
    }
}

impl FlowTables {
    /// Files a permit, under its wire tuple as well where that is another.
    pub(crate) fn file(&mut self, permit: Permit) {
        if permit.wire != permit.pod {
            let entry = Mapping::new(permit.pod, permit.ifindex, permit.since_ns);
            self.wire.set(permit.wire, entry);
        }
        self.permits.set(permit.pod, permit);
    }

    /// Writes into the note under this hash what its flow's beginning went out as.
    pub(crate) fn begin(&mut self, hash: u32, wire: FlowTuple) {
        let note = self.pending.at(&hash);
        *note = Pending {
            wire,
            mapped_ns: at(0),
            ..Pending::new(&note.tuple, note.ifindex, note.sent_to_mac, note.written_ns)
        };
    }

    /// Forgets a permit.
    pub(crate) fn forget(&mut self, permit: &Permit) {
        self.permits.remove(&permit.pod);
        self.wire.remove(&permit.wire);
    }
}
