//! This node, as what others claim is held against it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::backend::Peer;
use crate::peers::Objection;
use crate::subnet::Subnet;
use crate::uplink::Uplink;
use crate::vtep::MacAddr;

/// What is this node's own.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) subnet: Option<Subnet>,
    pub(crate) uplink: Uplink,
    pub(crate) device_mac: MacAddr,
    /// Every MAC address that the device was seen with: the store may still have an older one.
    seen_macs: BTreeSet<MacAddr>,
}

impl Own {
    pub(crate) fn new(uplink: Uplink, device_mac: MacAddr) -> Self {
        Self {
            subnet: None,
            uplink,
            device_mac,
            seen_macs: BTreeSet::new(),
        }
    }

    /// The device has this MAC address; whether that is another than was thought.
    pub(crate) fn saw(&mut self, mac: MacAddr) -> bool {
        self.seen_macs.insert(mac);
        std::mem::replace(&mut self.device_mac, mac) != mac
    }

    /// Whether a lease is of this node, or of its device.
    pub(crate) fn is_of(&self, subnet: Subnet, peer: Peer) -> bool {
        self.subnet == Some(subnet) || peer.mac() == Some(self.device_mac)
    }

    /// What speaks against a peer; our own lease is none either.
    pub(crate) fn objection(&self, subnet: Subnet, peer: Peer) -> Option<Objection> {
        match self.subnet {
            Some(own) if own.overlaps(subnet) => Some(Objection::OverlapsOwn(own)),
            _ if self.is_underlay(peer.underlay()) => Some(Objection::OwnUnderlay(peer.underlay())),
            // The other end would take our packets for its own that came back, as the kernel's
            // vxlan_rcv() has it, and drop them.
            _ => peer
                .mac()
                .filter(|&mac| mac == self.device_mac)
                .map(Objection::OwnMac),
        }
    }

    /// What speaks against a claim of another node; `None` for our own lease.
    pub(crate) fn conflict(&self, subnet: Subnet, peer: Peer) -> Option<Objection> {
        let objection = self.objection(subnet, peer)?;
        if self.subnet != Some(subnet) {
            return Some(objection);
        }
        if peer.mac().is_some_and(|mac| self.is_mac(mac)) {
            None
        } else if !self.is_underlay(peer.underlay()) {
            Some(objection)
        } else {
            // Until the device was seen nobody knows what ours would say.
            let mac = peer.mac().filter(|_| !self.seen_macs.is_empty());
            mac.map(Objection::OwnLease)
        }
    }

    fn is_mac(&self, mac: MacAddr) -> bool {
        mac == self.device_mac || self.seen_macs.contains(&mac)
    }

    fn is_underlay(&self, underlay: IpAddr) -> bool {
        let own: [Ipv4Addr; 2] = [self.uplink.address, self.uplink.public_ip];
        own.map(IpAddr::V4).contains(&underlay)
    }
}
