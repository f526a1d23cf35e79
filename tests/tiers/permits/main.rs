//! Permits against real rule sets: what the stock kernel path lets pass, Twill lets pass, and
//! what it drops, Twill drops within the permit time.
//!
//! Each test is called after a way in which a fast path can go wrong (docs/testing.md), and runs
//! the same traffic on stock nodes beside it. Needs root, CNI plugins, nft and both kinds of
//! iptables: `cargo xtask test permits`.

#![forbid(unsafe_code)]

mod beat;
mod lab;
mod rules;
mod talk;

mod a01_idle;
mod a02_reset;
mod a03_udp_segment;
mod a04_tunnel;
mod a05_fragments;
mod a06_vlan;
mod a07_spoofing;
mod a08_forged_nat;
mod a09_outer;
mod a17_route_mtu;
mod a19_outer_routes;
mod absence;
mod beginnings;
mod connections;
mod conntrack;
mod damage;
mod direct_mode;
mod direct_places;
mod discovery;
mod handover;
mod limits;
mod marks;
mod modes;
mod moved;
mod never_accepted;
mod overlay_mtu;
mod path;
mod places;
mod plugin;
mod pressure;
mod revocation;
mod same_bytes;
mod services;
mod shapes;
mod timeouts;
mod wiring;
