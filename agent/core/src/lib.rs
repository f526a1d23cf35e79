//! The agent's logic without any I/O: configuration, leases, desired state and plan.
//!
//! ```text
//! Event ─▸ State::apply ─▸ desired() ─▸ plan(observed, desired) ─▸ ops
//! ```
//!
//! Nothing here reads a clock, a file or a socket; what the world looks like is
//! handed in, what should be done to it is handed out.

#![forbid(unsafe_code)]

pub mod allocate;
pub mod backend;
pub mod chain;
pub mod condition;
pub mod config;
pub mod datapath;
pub mod desired;
pub mod docker_opts;
pub mod event;
pub mod family;
pub mod forward;
pub mod instance;
pub mod kube;
pub mod lease;
pub mod lease_key;
pub mod leases;
pub mod mtu;
pub mod observed;
pub mod peers;
pub mod plan;
pub mod podcidr;
pub mod pods;
pub mod routing_rules;
pub mod simulate;
pub mod state;
pub mod subnet;
pub mod subnet_env;
pub mod sysctl;
pub mod underlay_address;
pub mod uplink;
pub mod vtep;
