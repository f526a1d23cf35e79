//! Peers that do not contradict each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::backend::Peer;
use crate::subnet::Subnet;
use crate::vtep::{MacAddr, RemoteVtep};

/// Why a claim to a subnet is not taken as a peer: an older one says otherwise.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Objection {
    /// Two nodes claim the same address.
    #[error("overlaps {0}, which an older lease holds")]
    Overlaps(Subnet),
    /// Two MAC addresses at one underlay address.
    #[error("its underlay address belongs to the VTEP {0} by an older lease")]
    UnderlayTaken(MacAddr),
    /// One MAC address at two underlay addresses.
    #[error("its VTEP's MAC address is at {0} by an older lease")]
    MacTaken(IpAddr),
    /// Somebody else claims a part of our own subnet.
    #[error("overlaps this node's own subnet {0}")]
    OverlapsOwn(Subnet),
    /// Somebody else claims to be at our underlay address.
    #[error("its underlay address {0} is this node's own")]
    OwnUnderlay(IpAddr),
    /// Somebody else has the MAC address of our device.
    #[error("its VTEP's MAC address {0} is that of this node's own device")]
    OwnMac(MacAddr),
    /// Somebody else with our underlay address has written our own lease.
    #[error("this node's own lease names the VTEP {0}, which this node is not")]
    OwnLease(MacAddr),
}

impl Objection {
    /// Whether it is about this node's own lease, and not about two others.
    pub fn is_about_us(self) -> bool {
        match self {
            Self::OverlapsOwn(_) | Self::OwnUnderlay(_) | Self::OwnMac(_) | Self::OwnLease(_) => {
                true
            }
            Self::Overlaps(_) | Self::UnderlayTaken(_) | Self::MacTaken(_) => false,
        }
    }
}

/// Peers by subnet, with the invariants that the datapath and the FDB rely on: subnets do
/// not overlap, and of tunnel end points an underlay address has one MAC address and a MAC address
/// one underlay address. One node may hold several subnets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Peers {
    by_subnet: BTreeMap<Subnet, Peer>,
    /// With the number of subnets that say so.
    underlays: BTreeMap<IpAddr, (Option<MacAddr>, usize)>,
    macs: BTreeMap<MacAddr, IpAddr>,
}

impl Peers {
    /// The peer behind a subnet.
    pub fn get(&self, subnet: Subnet) -> Option<Peer> {
        self.by_subnet.get(&subnet).copied()
    }

    /// All, by ascending subnet.
    pub fn iter(&self) -> impl Iterator<Item = (Subnet, Peer)> {
        self.by_subnet.iter().map(|(&subnet, &peer)| (subnet, peer))
    }

    /// Those behind a tunnel end point, by ascending subnet.
    pub(crate) fn vteps(&self) -> impl Iterator<Item = (Subnet, RemoteVtep)> {
        self.iter()
            .filter_map(|(subnet, peer)| Some((subnet, peer.vtep()?)))
    }

    /// As a plain map.
    pub fn as_map(&self) -> &BTreeMap<Subnet, Peer> {
        &self.by_subnet
    }

    /// Number of subnets.
    pub fn len(&self) -> usize {
        self.by_subnet.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_subnet.is_empty()
    }

    /// Number of different nodes.
    pub fn node_count(&self) -> usize {
        self.underlays.len()
    }

    /// Whether some subnet is behind exactly this peer.
    pub fn has(&self, peer: Peer) -> bool {
        let there = self.underlays.get(&peer.underlay());
        there.is_some_and(|&(mac, _)| mac == peer.mac())
    }

    /// Whether some peer is at this underlay address.
    pub fn is_at(&self, underlay: IpAddr) -> bool {
        self.underlays.contains_key(&underlay)
    }

    /// Whether some peer's VTEP has this MAC address.
    pub fn has_mac(&self, mac: MacAddr) -> bool {
        self.macs.contains_key(&mac)
    }

    /// Whether some subnet starts at this address.
    pub fn starts_at(&self, address: IpAddr) -> bool {
        // Subnets sort by address, then by prefix length: a host prefix comes last.
        let last = Subnet::containing(IpNetwork::from(address));
        let found = self.by_subnet.range(..=last).next_back();
        found.is_some_and(|(subnet, _)| subnet.network() == address)
    }

    /// What speaks against a peer; what the subnet itself said so far counts too.
    pub fn objection(&self, subnet: Subnet, peer: Peer) -> Option<Objection> {
        // No two of ours overlap, so only the next ones on either side can.
        let before = self.by_subnet.range(..=subnet).next_back();
        let after = self.by_subnet.range(subnet..).next();
        if let Some((&other, _)) = before
            .into_iter()
            .chain(after)
            .find(|(other, _)| other.overlaps(subnet))
        {
            return Some(Objection::Overlaps(other));
        }
        let mac = peer.mac()?;
        if let Some(&(Some(other), _)) = self.underlays.get(&peer.underlay())
            && other != mac
        {
            return Some(Objection::UnderlayTaken(other));
        }
        match self.macs.get(&mac) {
            Some(&underlay) if underlay != peer.underlay() => Some(Objection::MacTaken(underlay)),
            _ => None,
        }
    }

    /// Adds a peer, unless there is an [`Peers::objection`]; says whether it did.
    pub fn insert(&mut self, subnet: Subnet, peer: Peer) -> bool {
        if self.objection(subnet, peer).is_some() {
            return false;
        }
        let (underlay, mac) = (peer.underlay(), peer.mac());
        self.by_subnet.insert(subnet, peer);
        self.macs.extend(mac.map(|mac| (mac, underlay)));
        let (_, subnets) = self.underlays.entry(underlay).or_insert((mac, 0));
        *subnets += 1;
        true
    }

    /// Forgets a peer.
    pub fn remove(&mut self, subnet: Subnet) -> Option<Peer> {
        let peer = self.by_subnet.remove(&subnet)?;
        let underlay = peer.underlay();
        if let Some((mac, subnets)) = self.underlays.get_mut(&underlay) {
            *subnets -= 1;
            if *subnets == 0 {
                if let Some(mac) = mac {
                    self.macs.remove(mac);
                }
                self.underlays.remove(&underlay);
            }
        }
        Some(peer)
    }
}
