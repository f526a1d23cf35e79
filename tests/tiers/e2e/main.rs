//! Whole parts of Twill together: stores, agents, nodes.
//!
//! Needs built binaries: `cargo xtask test e2e`.

#![forbid(unsafe_code)]

mod interop;
mod lease_server;
mod leases;
