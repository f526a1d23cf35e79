//! The guard: VXLAN from a host on the underlay that is no node.
//!
//! What the kernel takes with the guard off is shown beside what becomes of it, or the tests would
//! not prove what the guard prevents. Needs root and CNI plugins: `cargo xtask test guard`.

#![forbid(unsafe_code)]

mod arena;
mod flood;
mod forged;
mod ipv6;
mod jumbo;
mod kinds;
mod life;
mod place;
mod pods;
mod watch;
