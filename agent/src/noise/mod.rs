//! Every parser of what others write, with what must hold of whatever it takes: for
//! `cargo xtask fuzz`, and for the unit tests, which feed them the stored corpus and what chance
//! makes of it.

mod contract;
#[cfg(test)]
mod tests;

use crate::{files, netfilter, netlink, serve, store};

/// A parser, or some for one kind of text.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in `tests/fuzz/corpus`.
    pub name: &'static str,
    /// Takes anything; panics if something does not hold.
    pub feed: fn(&[u8]),
}

const fn target(name: &'static str, feed: fn(&[u8])) -> Target {
    Target { name, feed }
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    target("config", |bytes| contract::config(text(bytes))),
    target("etcd_record", store::noise::etcd),
    target("iptables", |bytes| netfilter::noise::iptables(text(bytes))),
    target("lease_key", |bytes| contract::lease_key(text(bytes))),
    target("lease_server", store::noise::server),
    target("lease_value", contract::lease_value),
    target("netlink", netlink::noise::datagram),
    target("nft", netfilter::noise::nft),
    target("own_files", |bytes| files::noise::own(text(bytes))),
    target("proc", |bytes| files::noise::proc(text(bytes))),
    target("serve_record", serve::noise::record),
    target("serve_request", serve::noise::request),
    target("subnet_env", |bytes| contract::subnet_env(text(bytes))),
];

/// As much of it as is text.
fn text(bytes: &[u8]) -> &str {
    let chunk = bytes.utf8_chunks().next();
    chunk.map_or("", |chunk| chunk.valid())
}
