//! Backends: how packets get from node to node.
//!
//! A backend is a pure mapping: from what a node is to the lease that it publishes, from a peer's
//! lease to a [`Peer`], from peers to links and entries of the kernel, and back from those to
//! leases. `BackendData` is written and read here, and nowhere else. Whoever adds a backend adds a
//! file here, an arm to each `match` below, and one to `config`.

mod entry;
mod host_gw;
mod link;
mod underlay;
pub mod vxlan;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use thiserror::Error;

pub use self::entry::{Entry, Out, Route};
pub use self::link::{LinkKind, LinkName, LinkSpec, VxlanLink};
use crate::config::VxlanConfig;
use crate::lease::{BackendData, Lease, LeaseAttrs, LeaseError};
use crate::mtu::UnderlayMtuTooSmall;
use crate::observed::ObservedKernel;
use crate::peers::Peers;
use crate::plan::KernelOp;
use crate::subnet::Subnet;
use crate::uplink::Uplink;
use crate::vtep::{MacAddr, RemoteVtep};

/// The keys of every backend's data: read without regard to ASCII case, as Go does.
pub(crate) const DATA_KEYS: [&str; 2] = vxlan::KEYS;

/// The backend that `net-conf.json` chooses, with its settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Backend {
    /// Packets in VXLAN, by a device of the kernel's and by the BPF programs.
    Vxlan(VxlanConfig),
    /// Plain routes to nodes on the same link.
    HostGw,
}

/// Where a subnet is, by its node's lease.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Peer {
    /// Behind a tunnel end point.
    Vtep(RemoteVtep),
    /// Behind a node on the same link.
    Gateway(IpAddr),
}

impl Peer {
    /// The address at which the node is reached.
    pub fn underlay(self) -> IpAddr {
        match self {
            Self::Vtep(vtep) => vtep.underlay,
            Self::Gateway(address) => address,
        }
    }

    /// The MAC address of its tunnel end point, if it has one.
    pub fn mac(self) -> Option<MacAddr> {
        self.vtep().map(|vtep| vtep.mac)
    }

    /// Its tunnel end point, if it has one.
    pub fn vtep(self) -> Option<RemoteVtep> {
        match self {
            Self::Vtep(vtep) => Some(vtep),
            Self::Gateway(_) => None,
        }
    }
}

impl From<RemoteVtep> for Peer {
    fn from(vtep: RemoteVtep) -> Self {
        Self::Vtep(vtep)
    }
}

/// A node on which a backend cannot work.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Unsuitable {
    /// No room for the overlay's header.
    #[error(transparent)]
    Mtu(#[from] UnderlayMtuTooSmall),
    /// The node is behind a NAT: no route leads to it.
    #[error(
        "your PublicIP differs from interface IP, meaning that probably you're on a NAT, which is \
         not supported by host-gw backend (the public address is {public_ip}, {interface} has \
         {address}; leave --public-ip out, or name another interface by --iface)"
    )]
    Translated {
        /// The address that peers would send to.
        public_ip: Ipv4Addr,
        /// The uplink.
        interface: String,
        /// Its address.
        address: Ipv4Addr,
    },
}

/// What planning looks at on the desired side.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) network: Subnet,
    /// Whether `peers` is complete: only then are stale entries removed.
    pub(crate) complete: bool,
    pub(crate) peers: &'a Peers,
    /// Nodes that this one reaches without a gateway, where that matters to the backend, and by
    /// which interface.
    pub(crate) on_link: &'a BTreeMap<IpAddr, u32>,
}

impl Wanted<'_> {
    /// Whether something that is ours for this subnet is nobody's any more.
    pub(crate) fn is_stale(self, subnet: Subnet) -> bool {
        self.complete && self.network.covers(subnet) && self.peers.get(subnet).is_none()
    }

    /// The interface by which packets to this node go past any tunnel. The maps must not lead
    /// there then.
    pub(crate) fn direct(self, peer: IpAddr) -> Option<u32> {
        self.on_link.get(&peer).copied()
    }
}

/// Plans the entries of peers, in the order in which the backend needs them.
pub(crate) trait EntryPlan {
    /// Plans a peer's entries.
    fn set(&mut self, subnet: Subnet, peer: Peer);
    /// Plans the removal of everything observed that is ours and nobody's any more.
    fn remove_stale(&mut self);
    /// The same for one subnet.
    fn remove_stale_peer(&mut self, subnet: Subnet);
    /// What was planned since the last call.
    fn take(&mut self) -> Vec<KernelOp>;
}

impl Backend {
    /// `Backend.Type`, and the `BackendType` of leases.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => vxlan::NAME,
            Self::HostGw => host_gw::NAME,
        }
    }

    /// The settings, in flannel's words, where it tells any.
    pub fn settings(&self) -> Option<String> {
        match self {
            Self::Vxlan(config) => Some(vxlan::settings(config)),
            Self::HostGw => None,
        }
    }

    /// The settings of what the BPF programs carry; `None` where they carry nothing.
    pub fn vxlan(&self) -> Option<&VxlanConfig> {
        match self {
            Self::Vxlan(config) => Some(config),
            Self::HostGw => None,
        }
    }

    /// Why the BPF programs carry nothing with these settings, if they do not.
    pub fn without_bpf(&self) -> Option<&'static str> {
        match self {
            Self::Vxlan(config) => vxlan::without_bpf(config),
            Self::HostGw => Some(host_gw::WITHOUT_BPF),
        }
    }

    /// Whether it matters by which way the host reaches a node: whether through a gateway.
    pub fn asks_for_ways(&self) -> bool {
        match self {
            Self::Vxlan(config) => config.direct_routing,
            Self::HostGw => true,
        }
    }

    /// Whether nodes that are not on a link of this one cannot be reached at all.
    pub fn needs_one_link(&self) -> bool {
        match self {
            Self::Vxlan(_) => false,
            Self::HostGw => true,
        }
    }

    /// Whether it can work on this uplink.
    pub fn suits(&self, uplink: &Uplink) -> Result<(), Unsuitable> {
        match self {
            Self::Vxlan(config) => vxlan::suits(config, uplink),
            Self::HostGw => host_gw::suits(uplink),
        }
    }

    /// The overlay's MTU in bytes: of its link, and `FLANNEL_MTU`.
    pub fn mtu(&self, uplink: &Uplink) -> u32 {
        match self {
            Self::Vxlan(config) => vxlan::mtu(config, uplink),
            Self::HostGw => uplink.mtu,
        }
    }

    /// Name of the link that carries the overlay, if there is one.
    pub fn link_name(&self) -> Option<LinkName> {
        match self {
            Self::Vxlan(config) => Some(vxlan::link_name(config)),
            Self::HostGw => None,
        }
    }

    /// The link that carries the overlay, if there is one. `mac` is for a new one.
    pub fn link(&self, uplink: &Uplink, mac: MacAddr, own: Option<Subnet>) -> Option<LinkSpec> {
        match self {
            Self::Vxlan(config) => Some(vxlan::link(config, uplink, mac, own)),
            Self::HostGw => None,
        }
    }

    /// What this node publishes; `None` until its link's MAC address is known, where it has one.
    pub fn attrs(&self, public_ip: Ipv4Addr, mac: Option<MacAddr>) -> Option<LeaseAttrs> {
        match self {
            Self::Vxlan(config) => Some(vxlan::attrs(public_ip, config.vni, mac?)),
            Self::HostGw => Some(host_gw::attrs(public_ip)),
        }
    }

    /// The peer that a lease names, if it is one of this backend's in the overlay `network` that
    /// packets can be sent to. Whether it is the own lease is not looked at.
    pub fn peer(&self, lease: &Lease, network: Subnet) -> Result<Peer, LeaseError> {
        let backend_type = &lease.attrs.backend_type;
        if backend_type != self.name() {
            return Err(LeaseError::OtherBackend {
                subnet: lease.subnet,
                backend_type: backend_type.chars().take(32).collect(),
                own: self.name(),
            });
        }
        let underlay = lease.underlay(network)?;
        match self {
            Self::Vxlan(_) => vxlan::peer(lease, underlay),
            Self::HostGw => Ok(Peer::Gateway(underlay)),
        }
    }

    /// The leases that entries in the kernel stand for: what the agent of an earlier start knew.
    pub fn leases(&self, kernel: &ObservedKernel) -> Vec<Lease> {
        match self {
            Self::Vxlan(config) => vxlan::leases(config, kernel),
            Self::HostGw => host_gw::leases(kernel),
        }
    }

    /// The subnet of the node itself, by what is in the kernel, where that says it.
    pub fn own_subnet(&self, kernel: &ObservedKernel, subnet_len: u8) -> Option<Subnet> {
        match self {
            Self::Vxlan(config) => vxlan::own_subnet(config, kernel, subnet_len),
            Self::HostGw => None,
        }
    }

    /// The MAC address of the link that carries the overlay, if there is one.
    pub fn own_mac(&self, kernel: &ObservedKernel) -> Option<MacAddr> {
        let link = kernel.links.get(&self.link_name()?)?;
        Some(link.device.mac)
    }

    /// The planner of entries; `None` where the link that they hang on is not there.
    pub(crate) fn entries<'a>(
        &self,
        kernel: &'a ObservedKernel,
        wanted: Wanted<'a>,
    ) -> Option<Box<dyn EntryPlan + 'a>> {
        match self {
            Self::Vxlan(config) => {
                let entries = vxlan::entries(config, kernel, wanted)?;
                Some(Box::new(entries))
            }
            Self::HostGw => Some(Box::new(host_gw::Entries::new(kernel, wanted))),
        }
    }
}

/// What is wrong with the data that a node of this backend sends to be published, and what would
/// be right. Of other backends, and of those that publish none, nothing is known.
pub fn check_data(backend_type: &str, data: &BackendData) -> Result<(), String> {
    if backend_type == vxlan::NAME {
        vxlan::check_data(data)
    } else {
        Ok(())
    }
}
