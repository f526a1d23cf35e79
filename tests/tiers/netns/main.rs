//! Real packets between namespaces, the kernel's own vxlan device among the peers.
//!
//! Needs root, CNI plugins and iperf3: `cargo xtask test netns`.

#![forbid(unsafe_code)]

mod acceptance;
mod agent_daemon;
mod agent_datapath;
mod astray;
mod ctl;

mod direct_routing;
mod health;
mod host_files;
mod netlink;
mod pods;
mod policy;
mod testbed;
mod traffic_rules;
