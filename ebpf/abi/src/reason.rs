//! The one registry of why a packet was carried, passed on or dropped.
//!
//! A reason's number is its place in the map `counters`: numbers are never reused.
//! Labels and explanations are shown by `twillctl counters`, the metrics and the
//! documents from this table.

/// Places in `counters` for each program.
pub const REASONS_PER_PROGRAM: u32 = 64;
/// Entries of the map `counters`.
pub const COUNTERS: u32 = 8 * REASONS_PER_PROGRAM;

macro_rules! registry {
    ($(#[$meta:meta])* pub enum $name:ident {
        $( $variant:ident = $number:literal, $label:literal, $text:literal; )+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u16)]
        pub enum $name { $( #[doc = $text] $variant = $number, )+ }

        impl $name {
            /// Every variant, in the order of its number.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// The name in metrics and in `twillctl`.
            pub const fn label(self) -> &'static str {
                match self { $( Self::$variant => $label, )+ }
            }

            /// What it means, in one sentence.
            pub const fn explanation(self) -> &'static str {
                match self { $( Self::$variant => $text, )+ }
            }

            /// The variant with this number.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $( $number => Some(Self::$variant), )+ _ => None }
            }
        }
    };
}

registry! {
    /// A BPF program of ours.
    pub enum Program {
        ToOverlay = 0, "to_overlay", "TC egress of the vxlan device.";
        FromUplink = 1, "from_uplink", "TC ingress of the uplink.";
        FromPod = 2, "from_pod", "TC ingress of a pod's host-side veth.";
        ToPod = 3, "to_pod", "TC egress of a pod's host-side veth.";
        ToUplink = 4, "to_uplink", "TC egress of the uplink.";
        Guard = 5, "guard", "XDP on the uplink; where XDP cannot be had, `from_uplink` counts here as well.";
    }
}

registry! {
    /// Why a packet was carried by BPF, passed on to the kernel, or dropped.
    pub enum Reason {
        Fast = 0, "fast", "Carried by BPF: encapsulated or decapsulated and redirected.";
        ModeKernel = 1, "mode_kernel", "The mode is `kernel`: every packet is passed on.";
        NotIp = 2, "not_ip", "Neither IPv4 nor a protocol that the program handles.";
        Truncated = 3, "truncated", "The headers end before they should.";
        VlanTag = 4, "vlan_tag", "The packet carries a VLAN tag.";
        IpOptions = 5, "ip_options", "The IP header carries options.";
        Fragment = 6, "fragment", "A fragment of an IP packet.";
        IpMalformed = 7, "ip_malformed", "The IP header contradicts itself or the packet's length.";
        NotVxlan = 8, "not_vxlan", "Not VXLAN to our port and address.";
        NoOverlayRoute = 9, "no_overlay_route", "No lease covers the destination.";
        NoVtep = 10, "no_vtep", "The overlay route names a VTEP that is not there.";
        NextHopUnresolved = 11, "next_hop_unresolved", "The kernel has no neighbour entry for the next hop yet.";
        NextHopUnusable = 12, "next_hop_unusable", "The kernel's route to the VTEP cannot be used by BPF.";
        NextHopElsewhere = 13, "next_hop_elsewhere", "The route to the VTEP does not leave by the uplink.";
        EncapRefused = 14, "encap_refused", "The kernel refused to make room for the outer headers.";
        OverPathMtu = 15, "over_path_mtu", "Longer than the path to the VTEP takes, the overlay's device, the route, or the way to the pod.";
        OuterPermitExpired = 16, "outer_permit_expired", "The outer packet's way was not confirmed lately.";
        OuterProbe = 17, "outer_probe", "Sent the kernel's way on purpose, to renew the outer permit.";
        VxlanFlags = 18, "vxlan_flags", "VXLAN flags other than a lone I bit, or reserved bits that are set.";
        WrongVni = 19, "wrong_vni", "VXLAN with another VNI.";
        UnknownVtep = 20, "unknown_vtep", "VXLAN from a source that is no VTEP.";
        ForeignInnerSource = 21, "foreign_inner_source", "The inner source is not in the sending VTEP's subnet.";
        ForeignInnerDestination = 22, "foreign_inner_destination", "The inner destination is not in the own subnet.";
        ForeignInnerMac = 23, "foreign_inner_mac", "The inner Ethernet destination is not the own VTEP's.";
        OuterMalformed = 24, "outer_malformed", "Outer lengths contradict each other or the packet's length.";
        Trusted = 25, "trusted", "VXLAN that passed every check, handed to the kernel's decap.";
        UnknownGso = 26, "unknown_gso", "A GSO packet of a kind that BPF does not encapsulate.";
        FastPathOff = 27, "fast_path_off", "The fast path is off, or the agent doubts its own settings.";
        LocalDestination = 28, "local_destination", "To an address of this node's own subnet.";
        NotTransport = 29, "not_transport", "Neither TCP nor UDP: never fast.";
        LastHop = 30, "last_hop", "A TTL that ends here.";
        NoPermit = 31, "no_permit", "Netfilter has not accepted this flow yet, or not remembered.";
        PermitExpired = 32, "permit_expired", "Netfilter's acceptance is too old in one direction or both.";
        Probe = 33, "probe", "Sent the slow way on purpose, to renew the permit.";
        ForeignVeth = 34, "foreign_veth", "The permit belongs to another veth, the pod sends to another MAC address, or its address is elsewhere now.";
        Opening = 35, "opening", "A SYN: conntrack shall see it.";
        Closing = 36, "closing", "A FIN or RST: conntrack shall see it.";
        Tombstone = 37, "tombstone", "The flow was closed a moment ago.";
        StaleVtep = 38, "stale_vtep", "The permit's VTEP has changed or is gone.";
        UdpSegments = 39, "udp_segments", "UDP segmentation into a pod: the kernel's decap keeps it whole.";
        EcnBroken = 40, "ecn_broken", "Outer ECN that the inner header cannot carry: the kernel decides.";
        DecapRefused = 41, "decap_refused", "The kernel refused to take the outer headers off.";
        NoMemory = 42, "no_memory", "Dropped: memory ran out in the middle of a rewrite.";
        NotAccepted = 43, "not_accepted", "Netfilter let it pass, but not as part of an established connection.";
        Learned = 44, "learned", "Netfilter's acceptance was remembered; counted beside the packet's own reason.";
        Ended = 45, "ended", "A permit was ended because netfilter no longer accepts the flow.";
        NeverFast = 46, "never_fast", "The veth, or the overlay's device, carries somebody else's qdisc, filter or program; or the veth is excluded.";
        OuterConfirmed = 47, "outer_confirmed", "The kernel sent VXLAN to a VTEP: its outer permit was renewed.";
        StackOwned = 48, "stack_owned", "Mode `direct`: the host's stack or a NAT owns this tuple.";
        PodVxlan = 49, "pod_vxlan", "VXLAN that a pod made, to a node's VXLAN port.";
        NotFromOverlay = 50, "not_from_overlay", "Delivered to a pod from elsewhere than the overlay: nothing to learn.";
        NoRoomForPermit = 51, "no_room_for_permit", "More new flows than room for permits; counted beside the packet's own reason.";
        NextHopDisputed = 52, "next_hop_disputed", "The kernel's own VXLAN to the VTEP left by another next hop than BPF's: the kernel carries it.";
        RoutedByRule = 53, "routed_by_rule", "A routing rule looks at this packet's mark or at outer source ports: the kernel carries it.";
        OuterUnverified = 54, "outer_unverified", "An outer UDP checksum that nobody has verified, and that the headers do not prove right: the kernel sums it up.";
    }
}

/// Place of a program's reason in the map `counters`.
#[inline(always)]
pub const fn counter_index(program: Program, reason: Reason) -> u32 {
    ((program as u32) << 6) | (reason as u32)
}

const _: () = assert!(REASONS_PER_PROGRAM == 1 << 6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_table() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            assert!((*reason as u32) < REASONS_PER_PROGRAM);
            assert_eq!(Reason::from_number(*reason as u32), Some(*reason));
        }
        for program in Program::ALL {
            assert!(counter_index(*program, Reason::Fast) < COUNTERS);
        }
    }

    #[test]
    fn labels_are_unique_and_fit_metrics() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            let label = reason.label();
            assert!(
                label.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{label}"
            );
            assert!(
                Reason::ALL
                    .iter()
                    .skip(place + 1)
                    .all(|other| other.label() != label),
                "{label}"
            );
        }
    }
}
