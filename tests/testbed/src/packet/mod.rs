//! Packets, byte by byte: what tests send, and what they expect to come out.
//!
//! Independent of `twill-packet` on purpose: code under test does not write its own
//! answer. A header is right unless a field was made to lie: every derived field
//! (`ihl`, `total_length`, `checksum`, …) is an `Option` that replaces the right value.
//!
//! ```
//! use twill_testbed::packet::{Ethernet, Ipv4, Udp};
//!
//! let (pod_a, pod_b) = ([10, 244, 1, 2].into(), [10, 244, 2, 2].into());
//! let question = Ipv4::new(pod_a, pod_b).udp(&Udp::new(40_000, 53), b"who?");
//! let frame = Ethernet::ipv4([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).over(&question);
//! assert_eq!(frame.len(), 14 + 20 + 8 + 4);
//! ```

#![expect(
    clippy::expect_used,
    reason = "a packet that cannot be built is the test's own mistake"
)]

mod checksum;
mod decode;
mod ethernet;
mod icmp;
mod ipv4;
mod sctp;
mod side_by_side;
mod tcp;
mod udp;
mod vxlan;

pub use checksum::internet_checksum;
pub use decode::decode;
pub use ethernet::{ETHER_TYPE_ARP, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, ETHER_TYPE_VLAN, Ethernet};
pub use icmp::Icmp;
pub use ipv4::{DONT_FRAGMENT, Ipv4, MORE_FRAGMENTS, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};
pub use sctp::sctp_init;
pub use side_by_side::side_by_side;
pub use tcp::Tcp;
pub use udp::Udp;
pub use vxlan::{VXLAN_I, Vxlan};
