//! What the agent knows, and what each event changes in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::backend::{LinkSpec, Peer};
use crate::config::NetworkConfig;
use crate::desired::Desired;
use crate::event::Event;
use crate::lease::{Lease, LeaseError};
use crate::peers::{Objection, Peers};
use crate::subnet::Subnet;
use crate::uplink::Uplink;
use crate::vtep::MacAddr;

#[cfg(test)]
mod tests;

/// What has to be planned after an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// One peer: [`crate::plan::plan_peer`] against the last observation.
    Peer(Subnet),
    /// Observe again, then [`crate::plan::plan`].
    Everything,
}

/// A lease that is not taken as a peer because an older one says otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// The subnet that it claims.
    pub subnet: Subnet,
    /// The peer that it names.
    pub peer: Peer,
    /// What speaks against it.
    pub objection: Objection,
}

/// Everything the agent knows; [`desired`] says what follows from it.
#[derive(Debug)]
pub struct State {
    config: NetworkConfig,
    uplink: Uplink,
    own_subnet: Option<Subnet>,
    device_mac: MacAddr,
    /// The overlay's MTU that the device has or had, bytes, until it was seen with the present one.
    former_mtu: Option<u32>,
    /// Every MAC address that the device was seen with: the store may still have an older one.
    seen_macs: BTreeSet<MacAddr>,
    peers: Peers,
    /// Claims that contradict a peer or ourselves, oldest first.
    contested: Vec<(Subnet, Peer)>,
    /// Leases that do not say where the subnet is, and why.
    rejected: BTreeMap<Subnet, LeaseError>,
    complete: bool,
}

impl State {
    /// Before any event. `device_mac` is for a new device, or that of the existing one.
    pub fn new(config: NetworkConfig, uplink: Uplink, device_mac: MacAddr) -> Self {
        Self {
            config,
            uplink,
            own_subnet: None,
            device_mac,
            former_mtu: None,
            seen_macs: BTreeSet::new(),
            peers: Peers::default(),
            contested: Vec::new(),
            rejected: BTreeMap::new(),
            complete: false,
        }
    }

    /// Takes in an event. Pure: what to do about it is for [`desired`] and the plan to say.
    pub fn apply(&mut self, event: Event) -> Change {
        match event {
            Event::LeaseAdded(lease) => self.add(&lease),
            Event::LeaseRemoved(subnet) => self.remove(subnet),
            Event::Resync(leases) => {
                self.resync(&leases);
                Change::Everything
            }
            Event::UplinkChanged(uplink) if uplink == self.uplink => Change::Nothing,
            Event::UplinkChanged(uplink) => {
                let before = self.mtu();
                self.uplink = uplink;
                if self.mtu() != before {
                    self.former_mtu.get_or_insert(before);
                }
                self.arbitrate();
                Change::Everything
            }
            Event::KernelChanged | Event::Tick => Change::Everything,
            Event::PodsChanged | Event::Shutdown => Change::Nothing,
        }
    }

    /// The subnet that this node holds, or that it has none.
    pub fn set_own_subnet(&mut self, subnet: Option<Subnet>) -> Change {
        if self.own_subnet == subnet {
            return Change::Nothing;
        }
        self.own_subnet = subnet;
        self.arbitrate();
        Change::Everything
    }

    /// The MAC address that the device has: the kernel may have given it another.
    pub fn set_device_mac(&mut self, mac: MacAddr) {
        self.seen_macs.insert(mac);
        if self.device_mac != mac {
            self.device_mac = mac;
            self.arbitrate();
        }
    }

    /// The MTU that the device was seen with, bytes.
    pub fn set_device_mtu(&mut self, mtu: u32) {
        let ours = self.mtu();
        if mtu == ours || (mtu < ours && self.former_mtu != Some(mtu)) {
            self.former_mtu = None;
        }
    }

    /// The network configuration.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// The uplink.
    pub fn uplink(&self) -> &Uplink {
        &self.uplink
    }

    /// The subnet that this node holds.
    pub fn own_subnet(&self) -> Option<Subnet> {
        self.own_subnet
    }

    /// Whether a complete list of leases has been seen.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The peer that holds a subnet.
    pub fn peer(&self, subnet: Subnet) -> Option<Peer> {
        self.peers.get(subnet)
    }

    /// All peers.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Leases that could not be read as a peer, and why. Where an earlier one could, it holds on.
    pub fn rejected(&self) -> &BTreeMap<Subnet, LeaseError> {
        &self.rejected
    }

    /// Leases that contradict an older one or ourselves.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.contested.iter().filter_map(|&(subnet, peer)| {
            self.objection(subnet, peer).map(|objection| Conflict {
                subnet,
                peer,
                objection,
            })
        })
    }

    /// Leases of others that contradict this node's own.
    pub fn claims_against_us(&self) -> impl Iterator<Item = Conflict> {
        let conflicts = self.conflicts();
        conflicts.filter(|conflict| conflict.objection.is_about_us())
    }

    /// The underlay addresses that other nodes publish, whether or not they are peers.
    pub fn elsewhere(&self) -> BTreeSet<Ipv4Addr> {
        let contested = self.contested.iter().copied();
        let others = self.peers.iter().chain(contested).filter(|(subnet, peer)| {
            self.own_subnet != Some(*subnet) && peer.mac() != Some(self.device_mac)
        });
        others
            .filter_map(|(_, peer)| match peer.underlay() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect()
    }

    /// The link that carries the overlay as it should be, if the backend has one.
    pub fn link(&self) -> Option<LinkSpec> {
        let link = self
            .config
            .backend
            .link(&self.uplink, self.device_mac, self.own_subnet);
        link.map(|link| LinkSpec {
            former_mtu: self.former_mtu,
            ..link
        })
    }

    /// The overlay's MTU, bytes.
    pub fn mtu(&self) -> u32 {
        self.config.backend.mtu(&self.uplink)
    }

    /// Peers that this node cannot reach, by the nodes that it is on one link with.
    pub fn unreachable(
        &self,
        on_link: &BTreeMap<IpAddr, u32>,
    ) -> impl Iterator<Item = (Subnet, IpAddr)> {
        let needed = self.config.backend.needs_one_link();
        let peers = self.peers.iter().filter(move |_| needed);
        peers
            .map(|(subnet, peer)| (subnet, peer.underlay()))
            .filter(|(_, underlay)| !on_link.contains_key(underlay))
    }

    fn add(&mut self, lease: &Lease) -> Change {
        let subnet = lease.subnet;
        let peer = match self.config.backend.peer(lease, self.config.network) {
            Ok(peer) => peer,
            Err(why) => {
                self.rejected.insert(subnet, why);
                return Change::Nothing;
            }
        };
        self.rejected.remove(&subnet);
        let before = self.peers.get(subnet);
        if before == Some(peer) {
            return Change::Nothing;
        }
        self.contested.retain(|&(other, _)| other != subnet);
        self.peers.remove(subnet);
        self.offer(subnet, peer);
        self.changed(subnet, before)
    }

    fn remove(&mut self, subnet: Subnet) -> Change {
        self.rejected.remove(&subnet);
        self.contested.retain(|&(other, _)| other != subnet);
        let before = self.peers.remove(subnet);
        self.changed(subnet, before)
    }

    /// What to plan after one subnet's claim changed. A claim that went may have stood in
    /// others' way, and then more than one peer changes.
    fn changed(&mut self, subnet: Subnet, before: Option<Peer>) -> Change {
        let now = self.peers.get(subnet);
        if now == before {
            Change::Nothing
        } else if before.is_some() && self.settle() {
            Change::Everything
        } else {
            Change::Peer(subnet)
        }
    }

    fn resync(&mut self, leases: &[Lease]) {
        self.rejected.clear();
        let mut claims: Vec<(Subnet, Peer)> = Vec::with_capacity(leases.len());
        for lease in leases {
            match self.config.backend.peer(lease, self.config.network) {
                Ok(peer) => claims.push((lease.subnet, peer)),
                Err(why) => {
                    self.rejected.insert(lease.subnet, why);
                }
            }
        }
        let readable: BTreeSet<Subnet> = claims.iter().map(|&(subnet, _)| subnet).collect();
        for &subnet in self.rejected.keys().filter(|s| !readable.contains(s)) {
            claims.extend(self.peers.get(subnet).map(|peer| (subnet, peer)));
        }
        let before = std::mem::take(&mut self.peers);
        // Whoever was there with the same words is older; of the others the lowest subnet is.
        claims.sort_by_key(|&(subnet, peer)| {
            let new = before.get(subnet) != Some(peer);
            (new, subnet, peer)
        });
        claims.dedup();
        self.contested.clear();
        for (subnet, peer) in claims {
            self.offer(subnet, peer);
        }
        self.complete = true;
    }

    /// Judges every claim again, the accepted ones first.
    fn arbitrate(&mut self) {
        let accepted = std::mem::take(&mut self.peers);
        let contested = std::mem::take(&mut self.contested);
        for (subnet, peer) in accepted.iter().chain(contested) {
            self.offer(subnet, peer);
        }
    }

    /// Takes in contested claims that nothing speaks against any more.
    fn settle(&mut self) -> bool {
        let contested = std::mem::take(&mut self.contested);
        let before = contested.len();
        for (subnet, peer) in contested {
            self.offer(subnet, peer);
        }
        self.contested.len() < before
    }

    fn offer(&mut self, subnet: Subnet, peer: Peer) {
        let accepted =
            self.own_objection(subnet, peer).is_none() && self.peers.insert(subnet, peer);
        if !accepted {
            self.contested.push((subnet, peer));
        }
    }

    /// What speaks against a contested claim; `None` for our own lease.
    fn objection(&self, subnet: Subnet, peer: Peer) -> Option<Objection> {
        let objection = self.own_objection(subnet, peer);
        match objection {
            Some(_) if self.own_subnet == Some(subnet) => {
                if peer.mac().is_some_and(|mac| self.is_own_mac(mac)) {
                    None
                } else if !self.is_own_underlay(peer.underlay()) {
                    objection
                } else {
                    // Until the device was seen nobody knows what ours would say.
                    let mac = peer.mac().filter(|_| !self.seen_macs.is_empty());
                    mac.map(Objection::OwnLease)
                }
            }
            objection => objection.or_else(|| self.peers.objection(subnet, peer)),
        }
    }

    fn is_own_mac(&self, mac: MacAddr) -> bool {
        mac == self.device_mac || self.seen_macs.contains(&mac)
    }

    fn own_objection(&self, subnet: Subnet, peer: Peer) -> Option<Objection> {
        match self.own_subnet {
            Some(own) if own.overlaps(subnet) => Some(Objection::OverlapsOwn(own)),
            _ if self.is_own_underlay(peer.underlay()) => {
                Some(Objection::OwnUnderlay(peer.underlay()))
            }
            // The other end would take our packets for its own that came back, as the kernel's
            // vxlan_rcv() has it, and drop them.
            _ => peer
                .mac()
                .filter(|&mac| mac == self.device_mac)
                .map(Objection::OwnMac),
        }
    }

    fn is_own_underlay(&self, underlay: IpAddr) -> bool {
        [self.uplink.address, self.uplink.public_ip].contains(&match underlay {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => return false,
        })
    }
}

/// What the node should look like, by what is known.
pub fn desired(state: &State) -> Desired {
    Desired {
        network: state.config.network,
        backend: state.config.backend.clone(),
        link: state.link(),
        peers: state.peers.as_map().clone(),
        complete: state.complete,
    }
}
