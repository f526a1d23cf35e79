//! Program runs: every BPF program is given packets by `BPF_PROG_TEST_RUN` and must answer
//! with the right verdict, the right bytes and the right counters, and touch nothing else.
//!
//! Needs `CAP_BPF`, `CAP_NET_ADMIN` and the object named by `TWILL_BPF_OBJECT`:
//! `cargo xtask test prog-run`. Each test has a network namespace of its own.
//!
//! What `BPF_PROG_TEST_RUN` cannot do is in [`live`]: it takes no VLAN tag beside the
//! packet, no frame below 14 bytes or above a page, and no GSO packet of a known type, and
//! it does not tell where a packet was redirected to.

#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a harness that cannot do its work fails the test"
)]

mod btf;
mod check;
mod fast_path;
mod flow_tables;
mod from_uplink;
mod guard;
mod lab;
mod live;
mod malformed;
mod mode;
mod next_hop;
mod noise;
mod object;
mod outer_permit;
mod packets;
mod permits;
mod probe;
mod sk_buff;
mod source_port;
mod tables;
mod to_overlay;
mod verifier;
mod world;
