//! Flows: the tuple that names one, and what is remembered of it.

use crate::layout::abi_struct;
use crate::{Address, Be16};

/// Directions that are accepted make this permit fast.
pub const PERMIT_LIVE: u32 = 1;
/// The flow was closed: nothing is learned until a SYN or `tombstone_until_ns`.
pub const PERMIT_TOMBSTONE: u32 = 2;

/// Made by the flow's own first packet in the mode `direct`, not by netfilter's acceptance.
pub const PERMIT_FLAG_DIRECT: u32 = 1 << 0;
/// A SYN that went direct into the pod, to which the pod has not said anything yet.
pub const PERMIT_FLAG_UNANSWERED: u32 = 1 << 1;
/// A packet that went direct out of the pod, to which nothing has come back by the uplink's hook.
pub const PERMIT_FLAG_UNHEARD: u32 = 1 << 2;
/// All of them: what else is set there, no program of ours has set.
pub const PERMIT_FLAGS: u32 = PERMIT_FLAG_DIRECT | PERMIT_FLAG_UNANSWERED | PERMIT_FLAG_UNHEARD;

/// A program of ours sits on this veth.
pub const VETH_FLAG_ATTACHED: u32 = 1 << 0;
/// Packets of this veth never take the fast path.
pub const VETH_FLAG_NEVER_FAST: u32 = 1 << 1;

abi_struct! {
    /// A flow as one pod sees it: `local` is the pod's own side, whichever way a packet goes.
    pub struct FlowTuple: 40, align 4 {
        /// The pod's own address.
        pub local: Address = 0,
        /// The other side's address.
        pub remote: Address = 16,
        /// The pod's own port.
        pub local_port: Be16 = 32,
        /// The other side's port.
        pub remote_port: Be16 = 34,
        /// IP protocol number.
        pub protocol: u8 = 36,
        /// Zero.
        pub reserved: [u8; 3] = 37,
    }
}

impl FlowTuple {
    /// A hash of the flow that nobody without the seed can aim at another flow's: two rounds of
    /// multiplying and folding, as good as a hash table's and a few nanoseconds cheap. IPv6
    /// addresses count by their last two words.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "both halves are folded into the lower one"
    )]
    pub const fn hash(&self, seed: u64) -> u32 {
        let addresses = words(
            self.local.last_word().to_network(),
            self.remote.last_word().to_network(),
        );
        let ports = words(
            (self.local_port.to_network() as u32) << 16 | self.remote_port.to_network() as u32,
            self.protocol as u32,
        );
        let mixed = fold(addresses ^ seed, 0x9e37_79b9_7f4a_7c15);
        let mixed = fold(mixed ^ ports, 0xd6e8_feb8_6659_fd93 ^ seed);
        (mixed ^ mixed >> 32) as u32
    }

    /// The key in `mappings` of a note that a datagram came in with this tuple on the wire. No
    /// flow's own key equals it: `reserved` is zero in all of those.
    #[must_use]
    pub const fn arrived(self) -> Self {
        Self {
            reserved: [1, 0, 0],
            ..self
        }
    }
}

const fn words(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// The bits of one word spread over all of it.
const fn fold(word: u64, by: u64) -> u64 {
    let word = (word ^ word >> 32).wrapping_mul(by);
    (word ^ word >> 29).wrapping_mul(0xff51_afd7_ed55_8ccd) ^ word >> 32
}

abi_struct! {
    /// Netfilter's remembered acceptance of one flow; value of `permits_pod`, whose key is the
    /// tuple that the pod sends.
    ///
    /// The tuples come first: an entry that the LRU hands to another flow while a program still
    /// reads it is overwritten from its beginning, so tuples that still fit after everything else
    /// was read prove that everything else was this flow's.
    pub struct Permit: 184, align 8 {
        /// The tuple that the pod sends: the key.
        pub pod: FlowTuple = 0,
        /// The tuple on the wire, seen from the pod: differs from `pod` by NAT alone.
        pub wire: FlowTuple = 40,
        /// Until when the direction out of the pod is accepted, `CLOCK_MONOTONIC` nanoseconds.
        pub out_until_ns: u64 = 80,
        /// Until when the direction into the pod is accepted, `CLOCK_MONOTONIC` nanoseconds.
        pub in_until_ns: u64 = 88,
        /// When the next packet out is a probe, `CLOCK_MONOTONIC` nanoseconds.
        pub probe_out_at_ns: u64 = 96,
        /// When the next packet in is a probe, `CLOCK_MONOTONIC` nanoseconds; `u64::MAX` until
        /// the probe out came back, and in a record of the mode `direct`.
        pub probe_in_at_ns: u64 = 104,
        /// Until when a tombstone stands, `CLOCK_MONOTONIC` nanoseconds.
        pub tombstone_until_ns: u64 = 112,
        /// When this record was made, `CLOCK_MONOTONIC` nanoseconds.
        pub since_ns: u64 = 120,
        /// Interface index of the pod's host-side veth.
        pub ifindex: u32 = 128,
        /// Index of the remote VTEP in `vteps`.
        pub vtep: u32 = 132,
        /// [`crate::Vtep::generation`] when this was learned.
        pub vtep_generation: u32 = 136,
        /// Probes sent, both directions.
        pub probes: u32 = 140,
        /// Times an acceptance was renewed.
        pub renewals: u32 = 144,
        /// `PERMIT_LIVE` or `PERMIT_TOMBSTONE`.
        pub state: u32 = 148,
        /// The pod's MAC address.
        pub pod_mac: [u8; 6] = 152,
        /// The MAC address that the host's stack sends to the pod from.
        pub gateway_mac: [u8; 6] = 158,
        /// The MAC address that the pod sends this flow to.
        pub sent_to_mac: [u8; 6] = 164,
        /// Largest IP packet that the host's stack hands to the pod as it is, bytes, as the last
        /// look found it; 0: not known.
        pub pod_mtu: u16 = 170,
        /// `PERMIT_FLAG_*`.
        pub flags: u32 = 172,
        /// When the next packet in looks whether the pod is still where this says,
        /// `CLOCK_MONOTONIC` nanoseconds.
        pub look_at_ns: u64 = 176,
    }
}

impl Permit {
    /// A record that accepts nothing yet, of a flow that leads nowhere yet.
    #[inline(always)]
    pub const fn new(pod: &FlowTuple, wire: &FlowTuple, ifindex: u32, since_ns: u64) -> Self {
        Self {
            pod: *pod,
            wire: *wire,
            out_until_ns: 0,
            in_until_ns: 0,
            probe_out_at_ns: 0,
            probe_in_at_ns: u64::MAX,
            tombstone_until_ns: 0,
            since_ns,
            ifindex,
            vtep: 0,
            vtep_generation: 0,
            probes: 0,
            renewals: 0,
            state: PERMIT_LIVE,
            pod_mac: [0; 6],
            gateway_mac: [0; 6],
            sent_to_mac: [0; 6],
            pod_mtu: 0,
            flags: 0,
            look_at_ns: 0,
        }
    }
}

abi_struct! {
    /// The tuple on the other side of a NAT; value of `permits_wire`, whose key is the tuple on
    /// the wire, and of `mappings`, whose key is the tuple that the pod knows.
    pub struct Mapping: 56, align 8 {
        /// When it was written, `CLOCK_MONOTONIC` nanoseconds.
        pub written_ns: u64 = 0,
        /// The tuple on the other side of the NAT.
        pub tuple: FlowTuple = 8,
        /// Interface index of the pod's host-side veth.
        pub ifindex: u32 = 48,
        /// Zero.
        pub reserved: [u8; 4] = 52,
    }
}

impl Mapping {
    /// A mapping to `tuple`, of the pod behind this veth.
    #[must_use]
    #[inline]
    pub const fn new(tuple: FlowTuple, ifindex: u32, written_ns: u64) -> Self {
        Self {
            written_ns,
            tuple,
            ifindex,
            reserved: [0; 4],
        }
    }
}

abi_struct! {
    /// A tuple that a pod sent, and what became of it; value of `pending`, whose key is
    /// `skb->hash`, which is [`FlowTuple::hash`] of the tuple.
    ///
    /// As in [`Permit`], a tuple that still fits after the rest was read proves that the rest was
    /// this flow's.
    pub struct Pending: 128, align 8 {
        /// When the pod sent it last, `CLOCK_MONOTONIC` nanoseconds.
        pub written_ns: u64 = 0,
        /// The tuple.
        pub tuple: FlowTuple = 8,
        /// Interface index of the veth that it came in by.
        pub ifindex: u32 = 48,
        /// The MAC address that the pod sends to.
        pub sent_to_mac: [u8; 6] = 52,
        /// Zero.
        pub reserved: [u8; 6] = 58,
        /// The tuple on the wire, seen from the pod: its own, as long as no packet went out by
        /// another.
        pub wire: FlowTuple = 64,
        /// When netfilter let the flow's beginning out by that tuple, `CLOCK_MONOTONIC`
        /// nanoseconds; 0: it did not, or the flow has its permit.
        pub mapped_ns: u64 = 104,
        /// Until when netfilter's acceptance of a SYN-ACK counts for the direction out of the pod,
        /// `CLOCK_MONOTONIC` nanoseconds; 0: nothing was accepted.
        pub out_until_ns: u64 = 112,
        /// Index of the remote VTEP in `vteps`, where `out_until_ns` is not 0.
        pub vtep: u32 = 120,
        /// [`crate::Vtep::generation`] at that moment.
        pub vtep_generation: u32 = 124,
    }
}

impl Pending {
    /// A note of which nothing has become yet.
    #[inline(always)]
    pub const fn new(tuple: &FlowTuple, ifindex: u32, sent_to_mac: [u8; 6], now_ns: u64) -> Self {
        Self {
            written_ns: now_ns,
            tuple: *tuple,
            ifindex,
            sent_to_mac,
            reserved: [0; 6],
            wire: *tuple,
            mapped_ns: 0,
            out_until_ns: 0,
            vtep: 0,
            vtep_generation: 0,
        }
    }
}

abi_struct! {
    /// Value of `veth_flags`, whose key is an interface index.
    pub struct VethFlags: 8, align 4 {
        /// `VETH_FLAG_*`.
        pub flags: u32 = 0,
        /// Zero.
        pub reserved: u32 = 4,
    }
}

abi_struct! {
    /// Where a local pod is; value of `local_pods`, whose key is the pod's address.
    pub struct LocalPod: 24, align 8 {
        /// When the stack last delivered to it there, `CLOCK_MONOTONIC` nanoseconds; 0: that is
        /// the pod's own word only.
        pub seen_ns: u64 = 0,
        /// Interface index of the pod's host-side veth.
        pub ifindex: u32 = 8,
        /// The pod's MAC address.
        pub pod_mac: [u8; 6] = 12,
        /// The MAC address that the host's stack sends to the pod from.
        pub gateway_mac: [u8; 6] = 18,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::net::Ipv4Addr;
    use std::collections::{BTreeMap, BTreeSet};
    use std::vec::Vec;

    use super::*;

    fn tuple(remote: u32, local_port: u16) -> FlowTuple {
        FlowTuple {
            local: Address::from(Ipv4Addr::new(10, 244, 1, 2)),
            remote: Address::from(Ipv4Addr::from(0x0af4_0000 + remote)),
            local_port: Be16::from_host(local_port),
            remote_port: Be16::from_host(80),
            protocol: 17,
            reserved: [0; 3],
        }
    }

    #[test]
    fn flows_that_hardly_differ_have_hashes_that_do() {
        let flows = (0..256).flat_map(|remote| (1..=256).map(move |port| tuple(remote, port)));
        let hashes: Vec<u32> = flows.map(|flow| flow.hash(7)).collect();
        let distinct: BTreeSet<u32> = hashes.iter().copied().collect();
        // 65,536 of 2^32: chance alone makes half a collision.
        assert!(distinct.len() > hashes.len() - 8, "{}", distinct.len());
        // The outer source port takes the upper bits, a table the lower ones.
        for shift in [0, 24] {
            let mut buckets = BTreeMap::new();
            for hash in &hashes {
                *buckets.entry(hash >> shift & 0xff).or_insert(0) += 1;
            }
            let (least, most) = (buckets.values().min(), buckets.values().max());
            assert_eq!(buckets.len(), 256);
            assert!(
                least > Some(&180) && most < Some(&340),
                "{least:?} {most:?}"
            );
        }
    }

    #[test]
    fn every_part_of_the_tuple_and_the_seed_count() {
        let flow = tuple(1, 2);
        let others = [
            FlowTuple {
                local: flow.remote,
                ..flow
            },
            tuple(2, 2),
            tuple(1, 3),
            FlowTuple {
                remote_port: Be16::from_host(81),
                ..flow
            },
            FlowTuple {
                protocol: 6,
                ..flow
            },
        ];
        for other in others {
            assert_ne!(flow.hash(7), other.hash(7));
        }
        assert_ne!(flow.hash(7), flow.hash(8));
    }
}
