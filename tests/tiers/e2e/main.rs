//! Whole parts of Twill together: stores, agents, nodes.
//!
//! Needs built binaries: `cargo xtask test e2e`.

#![forbid(unsafe_code)]

mod bad_input;
mod cni_plugin;
mod foreign;
mod impostor;
mod interop;
mod lease_server;
mod leases;
mod outage;
mod scale;
mod uplink;
