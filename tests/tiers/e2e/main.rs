//! Whole parts of Twill together: stores, agents, nodes.
//!
//! Needs built binaries: `cargo xtask test e2e`.

#![forbid(unsafe_code)]

mod lease_server;
