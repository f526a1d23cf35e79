//! What the node should look like.

use std::collections::BTreeMap;

use crate::backend::{Backend, LinkSpec, Peer};
use crate::subnet::Subnet;

/// Whose the node's network is: its link, entries, addresses, rules and `subnet.env`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ownership {
    /// The agent's.
    Node,
    /// Another daemon's. A plan writes maps, and nothing else.
    Nothing,
}

/// What the node should look like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Desired {
    /// The whole overlay prefix; entries outside it are never touched.
    pub network: Subnet,
    /// Whose the node's network is.
    pub ownership: Ownership,
    /// What maps peers to entries.
    pub backend: Backend,
    /// The link that carries the overlay, if the backend has one.
    pub link: Option<LinkSpec>,
    /// Peers by subnet. Without the own subnet.
    pub peers: BTreeMap<Subnet, Peer>,
    /// Whether `peers` is complete: only then are stale entries removed.
    pub complete: bool,
}
