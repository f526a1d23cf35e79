//! The branches that are measured: for each the program, the settings, the packet, and the
//! counter that must move, or it was another branch that was measured.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use twill_abi::{FastPath, Guard, Mode, Program, Reason};
use twill_testbed::packet::{Ethernet, Ipv4, Tcp, Udp, Vxlan};

use super::scene::{
    GATEWAY_MAC, MARK, NEXT_MAC, NOBODY, OTHER_OWN_POD, OWN_POD, OWN_UNDERLAY, OWN_VTEP_MAC,
    POD_MAC, PORT, SERVICE, STRANGER, UPLINK_MAC, VNI, VTEP_MAC, pod, underlay,
};

macro_rules! branches {
    ($($variant:ident = $name:literal, $program:ident, $reason:ident, $text:literal;)+) => {
        /// A way through a program.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
        pub enum Branch { $( #[doc = $text] #[serde(rename = $name)] $variant, )+ }

        impl Branch {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The program that it is in.
            pub const fn program(self) -> Program {
                match self { $(Self::$variant => Program::$program),+ }
            }

            /// What the program counts on that way.
            pub const fn reason(self) -> Reason {
                match self { $(Self::$variant => Reason::$reason),+ }
            }

            /// What it is, in a sentence.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

branches! {
    Nothing = "nothing", ToUplink, ModeKernel, "No more than to ask for the mode: the zero of all others.";
    ToOverlayKernel = "to_overlay mode kernel", ToOverlay, ModeKernel, "The mode is `kernel`.";
    ToOverlayFast = "to_overlay encap", ToOverlay, Fast, "Encapsulates, learns nothing.";
    ToOverlaySpread = "to_overlay encap, spread", ToOverlay, Fast, "The same to up to 1024 nodes in turn: caches miss.";
    ToOverlayLearn = "to_overlay encap and learn", ToOverlay, Fast, "Encapsulates, and remembers netfilter's acceptance.";
    ToOverlayNextHop = "to_overlay encap, next hop asked", ToOverlay, Fast, "The same, and asks the kernel for the next hop, as one packet a second does.";
    ToOverlayNoRoute = "to_overlay no lease", ToOverlay, NoOverlayRoute, "No lease covers the destination.";
    FromUplinkKernel = "from_uplink mode kernel", FromUplink, ModeKernel, "The mode is `kernel`.";
    FromUplinkOther = "from_uplink no vxlan", FromUplink, NotVxlan, "The node's own traffic.";
    FromUplinkTrusted = "from_uplink trusted", FromUplink, Trusted, "VXLAN that passed every check; the fast path is off.";
    FromUplinkStranger = "from_uplink stranger", FromUplink, UnknownVtep, "VXLAN from no VTEP.";
    FromUplinkNoPermit = "from_uplink no permit", FromUplink, NoPermit, "Trusted, and netfilter has not accepted the flow.";
    FromUplinkFast = "from_uplink decap", FromUplink, Fast, "Decapsulates into the pod.";
    FromUplinkNat = "from_uplink decap and NAT", FromUplink, Fast, "The same, from a Service's backend.";
    FromPodOff = "from_pod fast path off", FromPod, FastPathOff, "The fast path is off.";
    FromPodLocal = "from_pod local", FromPod, LocalDestination, "To a pod of the own node.";
    FromPodNoPermit = "from_pod no permit", FromPod, NoPermit, "Notes what the pod sent, for netfilter to accept.";
    FromPodFast = "from_pod encap", FromPod, Fast, "Encapsulates to the uplink.";
    FromPodNat = "from_pod encap and NAT", FromPod, Fast, "The same, to a Service.";
    FromPodDirectFirst = "from_pod direct, first", FromPod, Fast, "Mode `direct`: a SYN makes a record, and is encapsulated.";
    FromPodDirect = "from_pod direct", FromPod, Fast, "Mode `direct`: encapsulates by the record.";
    FromUplinkDirect = "from_uplink direct", FromUplink, Fast, "Mode `direct`: decapsulates by the record.";
    ToPodPass = "to_pod not accepted", ToPod, NotAccepted, "Netfilter let it pass as no established flow's.";
    ToPodLearn = "to_pod learn", ToPod, Learned, "Remembers netfilter's acceptance.";
    ToUplinkConfirm = "to_uplink vxlan", ToUplink, OuterConfirmed, "Renews a VTEP's outer permit.";
    GuardOff = "guard off", Guard, ModeKernel, "XDP that asks no more than whether there is a guard: the zero of the others.";
    GuardOther = "guard no vxlan", Guard, NotVxlan, "The node's own traffic, at XDP.";
    GuardTrusted = "guard trusted", Guard, Trusted, "VXLAN that passed every check, at XDP.";
    GuardStranger = "guard stranger", Guard, UnknownVtep, "VXLAN from no VTEP, dropped at XDP and remembered.";
    GuardTcTrusted = "from_uplink guards, trusted", FromUplink, Trusted, "VXLAN that passed every check, where the guard is at TC; the fast path is off.";
    GuardTcStranger = "from_uplink guards, stranger", FromUplink, UnknownVtep, "VXLAN from no VTEP, dropped at TC and remembered.";
}

impl fmt::Display for Branch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// The device that a packet is on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Device {
    Uplink,
    Overlay,
    Veth,
}

/// Ports of the measured flow: of the pod, of the backend, of the Service.
pub(super) const POD_PORT: u16 = 40_000;
pub(super) const BACKEND_PORT: u16 = 8080;
pub(super) const SERVICE_PORT: u16 = 80;
/// A port of a flow without permit.
const OTHER_PORT: u16 = 40_001;
const PAYLOAD: usize = 64;
/// Nodes that [`Branch::ToOverlaySpread`] sends to.
const SPREAD: u32 = 1024;

impl Branch {
    /// The mode and the fast path that it needs.
    pub(super) fn settings(self) -> (Mode, FastPath) {
        match self {
            Self::Nothing | Self::ToOverlayKernel | Self::FromUplinkKernel => {
                (Mode::Kernel, FastPath::Off)
            }
            Self::ToOverlayFast
            | Self::ToOverlaySpread
            | Self::ToOverlayNextHop
            | Self::ToOverlayNoRoute
            | Self::FromUplinkTrusted
            | Self::FromPodOff
            | Self::GuardTcTrusted
            | Self::GuardTcStranger => (Mode::Bpf, FastPath::Off),
            Self::ToOverlayLearn
            | Self::FromUplinkOther
            | Self::FromUplinkStranger
            | Self::FromUplinkNoPermit
            | Self::FromUplinkFast
            | Self::FromUplinkNat
            | Self::FromPodLocal
            | Self::FromPodNoPermit
            | Self::FromPodFast
            | Self::FromPodNat
            | Self::ToPodPass
            | Self::ToPodLearn
            | Self::ToUplinkConfirm
            | Self::GuardOff
            | Self::GuardOther
            | Self::GuardTrusted
            | Self::GuardStranger => (Mode::Bpf, FastPath::Permit),
            Self::FromPodDirectFirst | Self::FromPodDirect | Self::FromUplinkDirect => {
                (Mode::Bpf, FastPath::Direct)
            }
        }
    }

    /// What the guard does meanwhile.
    pub(super) fn guard(self) -> Guard {
        if self != Self::GuardOff && self.counter() == Program::Guard {
            Guard::Enforce
        } else {
            Guard::Off
        }
    }

    /// Whether the guard is in `from_uplink`.
    pub(super) fn guards_at_tc(self) -> bool {
        matches!(self, Self::GuardTcTrusted | Self::GuardTcStranger)
    }

    /// The program that it counts as.
    pub(super) fn counter(self) -> Program {
        if self.guards_at_tc() {
            return Program::Guard;
        }
        self.program()
    }

    /// Whether it counts nothing: that is the point of it.
    pub(super) fn is_silent(self) -> bool {
        matches!(self, Self::Nothing | Self::GuardOff | Self::GuardOther)
    }

    /// What its cost is told beside: the least that a program of its kind does.
    pub(super) fn zero(self) -> Self {
        if self.program() == Program::Guard {
            return Self::GuardOff;
        }
        Self::Nothing
    }

    pub(super) fn device(self) -> Device {
        match self.program() {
            Program::FromUplink | Program::ToUplink | Program::Guard => Device::Uplink,
            Program::ToOverlay => Device::Overlay,
            Program::FromPod | Program::ToPod => Device::Veth,
        }
    }

    /// The device by which the stack got the packet, where it did.
    pub(super) fn came_by(self) -> Option<Device> {
        (self.program() == Program::ToPod).then_some(Device::Overlay)
    }

    /// The mark that the packet carries.
    pub(super) fn mark(self) -> u32 {
        if matches!(self, Self::ToOverlayLearn | Self::ToPodLearn) {
            MARK
        } else {
            0
        }
    }

    /// The packets, one for each run in turn.
    pub(super) fn packets(self, leases: u32) -> Vec<Vec<u8>> {
        if self == Self::ToOverlaySpread {
            let places = 1..=leases.min(SPREAD);
            return places.map(|place| leaving(pod(place))).collect();
        }
        vec![self.packet()]
    }

    fn packet(self) -> Vec<u8> {
        let from_pod = Ethernet::ipv4(POD_MAC, GATEWAY_MAC);
        let to_pod = Ethernet::ipv4(GATEWAY_MAC, POD_MAC);
        let peer = pod(1);
        match self {
            // As the kernel sends it.
            Self::Nothing | Self::ToUplinkConfirm => {
                let outer = outer(OWN_UNDERLAY, underlay(1), &[0; 64]);
                Ethernet::ipv4(UPLINK_MAC, NEXT_MAC).over(&outer)
            }
            Self::ToOverlayNoRoute => leaving(NOBODY),
            Self::ToOverlayKernel
            | Self::ToOverlayFast
            | Self::ToOverlaySpread
            | Self::ToOverlayLearn
            | Self::ToOverlayNextHop => leaving(peer),
            Self::FromUplinkOther | Self::GuardOther => {
                let packet = Ipv4::new(underlay(1), OWN_UNDERLAY);
                let packet = packet.tcp(&Tcp::new(50_000, 22), &[0; PAYLOAD]);
                Ethernet::ipv4(NEXT_MAC, UPLINK_MAC).over(&packet)
            }
            Self::FromUplinkKernel
            | Self::FromUplinkTrusted
            | Self::FromUplinkFast
            | Self::FromUplinkDirect
            | Self::GuardOff
            | Self::GuardTrusted
            | Self::GuardTcTrusted => arriving(underlay(1), POD_PORT),
            Self::FromUplinkStranger | Self::GuardStranger | Self::GuardTcStranger => from_nobody(),
            Self::FromUplinkNoPermit => arriving(underlay(1), OTHER_PORT),
            Self::FromUplinkNat => arriving(underlay(1), NAT_PORT),
            Self::FromPodLocal => from_pod.over(&segment(OWN_POD, POD_PORT, OTHER_OWN_POD, 80)),
            Self::FromPodNoPermit => {
                from_pod.over(&segment(OWN_POD, OTHER_PORT, peer, BACKEND_PORT))
            }
            Self::FromPodDirectFirst => {
                let syn = Tcp {
                    flags: Tcp::SYN,
                    ..Tcp::new(FIRST_PORT, BACKEND_PORT)
                };
                from_pod.over(&Ipv4::new(OWN_POD, peer).tcp(&syn, &[0; PAYLOAD]))
            }
            Self::FromPodOff | Self::FromPodFast | Self::FromPodDirect => {
                from_pod.over(&segment(OWN_POD, POD_PORT, peer, BACKEND_PORT))
            }
            Self::FromPodNat => from_pod.over(&segment(OWN_POD, NAT_PORT, SERVICE, SERVICE_PORT)),
            Self::ToPodPass | Self::ToPodLearn => {
                to_pod.over(&segment(peer, BACKEND_PORT, OWN_POD, POD_PORT))
            }
        }
    }
}

/// The pod's port of a flow that begins.
pub(super) const FIRST_PORT: u16 = 40_003;
/// The pod's port of the flow to the Service.
pub(super) const NAT_PORT: u16 = 40_002;

/// A TCP segment in the middle of a connection.
fn segment(source: Ipv4Addr, from: u16, destination: Ipv4Addr, to: u16) -> Vec<u8> {
    Ipv4::new(source, destination).tcp(&Tcp::new(from, to), &[0; PAYLOAD])
}

/// As the stack hands it to the overlay device.
fn leaving(destination: Ipv4Addr) -> Vec<u8> {
    let packet = segment(OWN_POD, POD_PORT, destination, BACKEND_PORT);
    Ethernet::ipv4(OWN_VTEP_MAC, VTEP_MAC).over(&packet)
}

/// VXLAN from the measured peer's pod to the own one.
fn arriving(from: Ipv4Addr, to_port: u16) -> Vec<u8> {
    let inner = segment(pod(1), BACKEND_PORT, OWN_POD, to_port);
    vxlan(from, OWN_UNDERLAY, &inner)
}

/// VXLAN from somebody who is no VTEP.
pub(crate) fn from_nobody() -> Vec<u8> {
    let inner = segment(NOBODY, BACKEND_PORT, OWN_POD, POD_PORT);
    vxlan(STRANGER, OWN_UNDERLAY, &inner)
}

/// As the uplink receives it.
fn vxlan(from: Ipv4Addr, to: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    Ethernet::ipv4(NEXT_MAC, UPLINK_MAC).over(&outer(from, to, inner))
}

fn outer(from: Ipv4Addr, to: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    let inner = Ethernet::ipv4(VTEP_MAC, OWN_VTEP_MAC).over(inner);
    let payload = Vxlan::new(VNI).over(&inner);
    let outer = Ipv4 {
        fragment: 0,
        ..Ipv4::new(from, to)
    };
    outer.udp(&Udp::without_checksum(50_000, PORT), &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_branch_has_a_packet_and_a_name_of_its_own() {
        let mut names: Vec<_> = Branch::ALL.iter().map(|branch| branch.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Branch::ALL.len());
        for &branch in Branch::ALL {
            assert!(branch.packets(2).iter().all(|packet| packet.len() > 64));
            assert!(!branch.explanation().is_empty());
        }
        assert_eq!(Branch::ToOverlaySpread.packets(2).len(), 2);
        assert_eq!(Branch::ToOverlaySpread.packets(100_000).len(), 1024);
    }
}
