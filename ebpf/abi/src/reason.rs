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
        Guard = 5, "guard", "XDP on the uplink.";
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
        OverPathMtu = 15, "over_path_mtu", "Longer than the path to the VTEP takes.";
        OuterPermitExpired = 16, "outer_permit_expired", "The outer packet's way was not confirmed lately.";
        OuterProbe = 17, "outer_probe", "Sent the kernel's way on purpose, to renew the outer permit.";
        VxlanFlags = 18, "vxlan_flags", "VXLAN flags other than a lone I bit.";
        WrongVni = 19, "wrong_vni", "VXLAN with another VNI.";
        UnknownVtep = 20, "unknown_vtep", "VXLAN from a source that is no VTEP.";
        ForeignInnerSource = 21, "foreign_inner_source", "The inner source is not in the sending VTEP's subnet.";
        ForeignInnerDestination = 22, "foreign_inner_destination", "The inner destination is not in the own subnet.";
        ForeignInnerMac = 23, "foreign_inner_mac", "The inner Ethernet destination is not the own VTEP's.";
        OuterMalformed = 24, "outer_malformed", "Outer lengths contradict each other or the packet's length.";
        Trusted = 25, "trusted", "VXLAN that passed every check, handed to the kernel's decap.";
        OverlayControl = 26, "overlay_control", "To the node's own overlay address, or not unicast.";
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
