//! Peers that do not contradict each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thiserror::Error;

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
/// not overlap, an underlay address has one MAC address and a MAC address one underlay
/// address. One node may hold several subnets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Peers {
    vteps: BTreeMap<Subnet, RemoteVtep>,
    /// With the number of subnets that say so.
    underlays: BTreeMap<IpAddr, (MacAddr, usize)>,
    macs: BTreeMap<MacAddr, IpAddr>,
}

impl Peers {
    /// The VTEP behind a subnet.
    pub fn get(&self, subnet: Subnet) -> Option<RemoteVtep> {
        self.vteps.get(&subnet).copied()
    }

    /// All, by ascending subnet.
    pub fn iter(&self) -> impl Iterator<Item = (Subnet, RemoteVtep)> {
        self.vteps.iter().map(|(&subnet, &vtep)| (subnet, vtep))
    }

    /// As a plain map.
    pub fn as_map(&self) -> &BTreeMap<Subnet, RemoteVtep> {
        &self.vteps
    }

    /// Number of subnets.
    pub fn len(&self) -> usize {
        self.vteps.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.vteps.is_empty()
    }

    /// Number of different VTEPs.
    pub fn vtep_count(&self) -> usize {
        self.underlays.len()
    }

    /// Whether some subnet is behind exactly this VTEP.
    pub fn has_vtep(&self, vtep: RemoteVtep) -> bool {
        self.mac_at(vtep.underlay) == Some(vtep.mac)
    }

    /// The MAC address of the VTEP at an underlay address.
    pub fn mac_at(&self, underlay: IpAddr) -> Option<MacAddr> {
        self.underlays.get(&underlay).map(|&(mac, _)| mac)
    }

    /// Whether some peer's VTEP has this MAC address.
    pub fn has_mac(&self, mac: MacAddr) -> bool {
        self.macs.contains_key(&mac)
    }

    /// Whether some subnet starts at this address.
    pub fn starts_at(&self, address: IpAddr) -> bool {
        // Subnets sort by address, then by prefix length: a host prefix comes last.
        let last = Subnet::containing(IpNetwork::from(address));
        let found = self.vteps.range(..=last).next_back();
        found.is_some_and(|(subnet, _)| subnet.network() == address)
    }

    /// What speaks against a peer; what the subnet itself said so far counts too.
    pub fn objection(&self, subnet: Subnet, vtep: RemoteVtep) -> Option<Objection> {
        // No two of ours overlap, so only the next ones on either side can.
        let before = self.vteps.range(..=subnet).next_back();
        let after = self.vteps.range(subnet..).next();
        if let Some((&other, _)) = before
            .into_iter()
            .chain(after)
            .find(|(other, _)| other.overlaps(subnet))
        {
            return Some(Objection::Overlaps(other));
        }
        if let Some(mac) = self.mac_at(vtep.underlay)
            && mac != vtep.mac
        {
            return Some(Objection::UnderlayTaken(mac));
        }
        match self.macs.get(&vtep.mac) {
            Some(&underlay) if underlay != vtep.underlay => Some(Objection::MacTaken(underlay)),
            _ => None,
        }
    }

    /// Adds a peer, unless there is an [`Peers::objection`]; says whether it did.
    pub fn insert(&mut self, subnet: Subnet, vtep: RemoteVtep) -> bool {
        if self.objection(subnet, vtep).is_some() {
            return false;
        }
        self.vteps.insert(subnet, vtep);
        self.macs.insert(vtep.mac, vtep.underlay);
        let (_, subnets) = self.underlays.entry(vtep.underlay).or_insert((vtep.mac, 0));
        *subnets += 1;
        true
    }

    /// Forgets a peer.
    pub fn remove(&mut self, subnet: Subnet) -> Option<RemoteVtep> {
        let vtep = self.vteps.remove(&subnet)?;
        if let Some((_, subnets)) = self.underlays.get_mut(&vtep.underlay) {
            *subnets -= 1;
            if *subnets == 0 {
                self.underlays.remove(&vtep.underlay);
                self.macs.remove(&vtep.mac);
            }
        }
        Some(vtep)
    }
}
