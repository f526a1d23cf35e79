//! Links of the host that have to do with pods, as they were read from the kernel.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::Ipv4Network;

use crate::subnet::Subnet;

/// Veths and bridges of the host's namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostLinks {
    /// By interface index.
    pub links: BTreeMap<u32, HostLink>,
}

/// A link, and what hangs on it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostLink {
    /// Name.
    pub name: String,
    /// Kind, as `veth` or `bridge`.
    pub kind: String,
    /// Interface index of the bridge that it is a port of, or of another master.
    pub master: Option<u32>,
    /// Whether it is up and has a carrier: of a veth both ends are up then.
    pub up: bool,
    /// Whether the other end of a veth is in another network namespace.
    pub peer_elsewhere: bool,
    /// The largest MTU that it may be given, in bytes, where the kernel says.
    pub max_mtu: Option<u32>,
    /// IPv4 addresses, each with the prefix length of its network. Of bridges with veths for
    /// ports at least.
    pub addresses: BTreeSet<Ipv4Network>,
    /// Destinations of main table routes that leave by it.
    pub routes: BTreeSet<Subnet>,
    /// Queueing disciplines in the two places where a packet meets them first.
    pub qdiscs: BTreeSet<Qdisc>,
    /// Classifiers on its clsact qdisc.
    pub filters: BTreeSet<Filter>,
}

/// A queueing discipline, by its kind.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Qdisc {
    /// What is sent by the link waits in it; of a virtual link normally `noqueue`.
    Root(String),
    /// What is received meets it, `ingress`, or both ways do, `clsact`.
    Ingress(String),
}

/// Which of a clsact qdisc's two hooks.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Hook {
    /// TC ingress of the link: what it receives; of a pod's host-side veth, what the pod sends.
    Ingress,
    /// TC egress of the link: what is sent by it.
    Egress,
}

impl Hook {
    /// The word that `tc` has for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A classifier, as `tc filter` shows it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Filter {
    /// Where it is.
    pub hook: Hook,
    /// Priority, 1 to 65535.
    pub priority: u16,
    /// Handle. With 0 and no program it stands for all filters of its priority: the kernel
    /// lists one such beside them.
    pub handle: u32,
    /// Kind, `bpf` where it is a program.
    pub kind: String,
    /// What whoever attached the program called it.
    pub program: Option<String>,
}
