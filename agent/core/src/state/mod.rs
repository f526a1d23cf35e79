//! What the agent knows, and what each event changes in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::backend::{LinkSpec, Peer};
use crate::config::NetworkConfig;
use crate::desired::{Desired, Ownership};
pub use crate::event::Change;
use crate::event::Event;
use crate::lease::{Lease, LeaseError};
pub use crate::leases::Conflict;
use crate::leases::{Checkpoint, Judge, LeaseIndex, Listing, Own, StoreEvent};
use crate::observed::ObservedKernel;
use crate::peers::Peers;
use crate::subnet::Subnet;
use crate::uplink::Uplink;
use crate::vtep::MacAddr;

#[cfg(test)]
mod tests;

/// Everything the agent knows; [`desired`] says what follows from it.
#[derive(Debug)]
pub struct State {
    config: NetworkConfig,
    ownership: Ownership,
    own: Own,
    /// The overlay's MTU that the device has or had, bytes, until it was seen with the present one.
    former_mtu: Option<u32>,
    leases: LeaseIndex,
}

impl State {
    /// Before any event. `device_mac` is for a new device, or that of the existing one.
    pub fn new(config: NetworkConfig, uplink: Uplink, device_mac: MacAddr) -> Self {
        Self {
            config,
            ownership: Ownership::Node,
            own: Own::new(uplink, device_mac),
            former_mtu: None,
            leases: LeaseIndex::default(),
        }
    }

    /// The same, beside a daemon that has the node's network: nothing of the kernel's is ours.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self {
            ownership: Ownership::Nothing,
            ..self
        }
    }

    /// Tells what an earlier start knew: the leases that it left in the kernel, and until when
    /// some were kept for a former store.
    pub fn remember(&mut self, leases: &[Lease], kept_until: Option<Duration>, now: Duration) {
        let judge = Judge {
            config: &self.config,
            own: &self.own,
        };
        self.leases.remember(leases, kept_until, judge, now);
    }

    /// Takes in an event at a time since the machine has started. Pure: what to do about it is
    /// for [`desired`] and the plan to say.
    pub fn apply(&mut self, event: Event, now: Duration) -> Change {
        match event {
            Event::Store(event) => {
                let judge = Judge {
                    config: &self.config,
                    own: &self.own,
                };
                self.leases.apply(event, judge, now)
            }
            Event::KernelChanged => Change::Everything,
            Event::PodsChanged => Change::Nothing,
        }
    }

    /// Takes from an observation what a lease store would say, and which part of it is this
    /// node's: all that is known where the network is another daemon's.
    pub fn recognise(&mut self, kernel: &ObservedKernel, now: Duration) -> Change {
        let backend = &self.config.backend;
        let own = backend.own_subnet(kernel, self.config.subnet_len);
        let mac = backend.own_mac(kernel);
        let listing = Listing::of_kernel(backend, kernel);
        let before = (self.is_complete(), self.peers().clone(), self.own_subnet());
        self.set_own_subnet(own);
        if let Some(mac) = mac {
            self.set_device_mac(mac);
        }
        self.apply(StoreEvent::Listed(listing).into(), now);
        let is_same = before.0 && before.1 == *self.peers() && before.2 == self.own_subnet();
        if is_same {
            Change::Nothing
        } else {
            Change::Everything
        }
    }

    /// Another uplink, or the same with other properties.
    pub fn set_uplink(&mut self, uplink: Uplink) -> Change {
        if self.own.uplink == uplink {
            return Change::Nothing;
        }
        let before = self.mtu();
        self.own.uplink = uplink;
        if self.mtu() != before {
            self.former_mtu.get_or_insert(before);
        }
        self.leases.judge_again(&self.own);
        Change::Everything
    }

    /// The subnet that this node holds, or that it has none.
    pub fn set_own_subnet(&mut self, subnet: Option<Subnet>) -> Change {
        if self.own.subnet == subnet {
            return Change::Nothing;
        }
        self.own.subnet = subnet;
        self.leases.judge_again(&self.own);
        Change::Everything
    }

    /// The MAC address that the device has: the kernel may have given it another.
    pub fn set_device_mac(&mut self, mac: MacAddr) {
        if self.own.saw(mac) {
            self.leases.judge_again(&self.own);
        }
    }

    /// The MTU that the device was seen with, bytes.
    pub fn set_device_mtu(&mut self, mtu: u32) {
        let ours = self.mtu();
        if mtu == ours || (mtu < ours && self.former_mtu != Some(mtu)) {
            self.former_mtu = None;
        }
    }

    /// Why the lease store is not heard, if it is not.
    pub fn store_lost(&self) -> Option<&str> {
        self.leases.lost()
    }

    /// What the next start must know of the leases, once there was a list.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.leases.checkpoint()
    }

    /// Whose the node's network is.
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// The network configuration.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// The uplink.
    pub fn uplink(&self) -> &Uplink {
        &self.own.uplink
    }

    /// The subnet that this node holds.
    pub fn own_subnet(&self) -> Option<Subnet> {
        self.own.subnet
    }

    /// Whether a complete list of leases has been seen.
    pub fn is_complete(&self) -> bool {
        self.leases.is_complete()
    }

    /// The peer that holds a subnet.
    pub fn peer(&self, subnet: Subnet) -> Option<Peer> {
        self.peers().get(subnet)
    }

    /// All peers.
    pub fn peers(&self) -> &Peers {
        self.leases.claims().peers()
    }

    /// Leases that could not be read as a peer, and why. Where an earlier one could, it holds on.
    pub fn rejected(&self) -> &BTreeMap<Subnet, LeaseError> {
        self.leases.claims().rejected()
    }

    /// Leases that contradict an older one or ourselves.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.leases.claims().conflicts(&self.own)
    }

    /// Leases of others that contradict this node's own.
    pub fn claims_against_us(&self) -> impl Iterator<Item = Conflict> {
        let conflicts = self.conflicts();
        conflicts.filter(|conflict| conflict.objection.is_about_us())
    }

    /// The underlay addresses that other nodes publish, whether or not they are peers.
    pub fn elsewhere(&self) -> BTreeSet<Ipv4Addr> {
        self.leases.claims().elsewhere(&self.own)
    }

    /// The link that carries the overlay as it should be, if the backend has one.
    pub fn link(&self) -> Option<LinkSpec> {
        let own = &self.own;
        let backend = &self.config.backend;
        let link = backend.link(&own.uplink, own.device_mac, own.subnet);
        link.map(|link| LinkSpec {
            former_mtu: self.former_mtu,
            ..link
        })
    }

    /// The overlay's MTU, bytes.
    pub fn mtu(&self) -> u32 {
        self.config.backend.mtu(&self.own.uplink)
    }

    /// Peers that this node cannot reach, by the nodes that it is on one link with.
    pub fn unreachable(
        &self,
        on_link: &BTreeMap<IpAddr, u32>,
    ) -> impl Iterator<Item = (Subnet, IpAddr)> {
        let needed = self.config.backend.needs_one_link();
        let peers = self.peers().iter().filter(move |_| needed);
        peers
            .map(|(subnet, peer)| (subnet, peer.underlay()))
            .filter(|(_, underlay)| !on_link.contains_key(underlay))
    }
}

/// What the node should look like, by what is known.
pub fn desired(state: &State) -> Desired {
    Desired {
        network: state.config.network,
        ownership: state.ownership,
        backend: state.config.backend.clone(),
        link: state.link(),
        peers: state.peers().as_map().clone(),
        complete: state.is_complete(),
    }
}
