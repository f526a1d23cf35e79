//! Every kind of forged packet.

use std::net::Ipv4Addr;

use twill_testbed::packet::{Ethernet, Ipv4, MORE_FRAGMENTS, Udp, VXLAN_I, Vxlan};
use twill_testbed::world::{NODE_A, NODE_B, STRANGER, UPLINK_MAC_A, VNI, uplink_mac};

use crate::watch::PORT;

/// The nodes' VXLAN port.
pub(crate) const VXLAN_PORT: u16 = twill_testbed::world::PORT;
/// Where forged packets come from.
pub(crate) const SOURCE_PORT: u16 = 55_555;
/// Bytes of a frame up to the end of the outer UDP header.
const UDP_END: usize = Ethernet::LENGTH + Ipv4::LENGTH + Udp::LENGTH;

/// Where a forged packet arrives, where nothing stops it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Arrives {
    /// Nowhere: the kernel drops it by itself.
    Nowhere,
    /// In the victim's pod.
    Victim,
    /// In the pod of another node, to which the victim forwards it.
    Other,
}

/// A kind of forged packet.
pub(crate) struct Kind {
    /// Its name, which its payload begins with.
    pub(crate) name: &'static str,
    /// What the guard counts.
    pub(crate) reason: &'static str,
    /// How many packets of it the guard judges.
    pub(crate) judged: u64,
    /// What the kernel does.
    pub(crate) arrives: Arrives,
    pub(crate) frames: Vec<Vec<u8>>,
}

/// Addresses of what is attacked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// MAC address of the victim's vxlan device.
    pub(crate) vtep_mac: [u8; 6],
    /// The victim's pod.
    pub(crate) pod: Ipv4Addr,
    /// The victim's bridge.
    pub(crate) gateway: Ipv4Addr,
    /// The pod of the peer whose address is forged.
    pub(crate) peer_pod: Ipv4Addr,
    /// The pod of another peer.
    pub(crate) other_pod: Ipv4Addr,
}

/// A forged packet, each part an honest one's unless a kind changes it.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) outer: Ipv4,
    pub(crate) vxlan: Vxlan,
    vtep_mac: [u8; 6],
    pub(crate) inner: Ipv4,
    /// Bytes behind the word.
    pub(crate) filling: usize,
}

impl Forged {
    pub(crate) fn new(target: &Target) -> Self {
        Self {
            outer: Ipv4 {
                fragment: 0,
                ..Ipv4::new(NODE_B, NODE_A)
            },
            vxlan: Vxlan::new(VNI),
            vtep_mac: target.vtep_mac,
            inner: Ipv4::new(target.peer_pod, target.pod),
            filling: 40,
        }
    }

    /// The UDP payload of the outer packet.
    pub(crate) fn vxlan(&self, word: &str) -> Vec<u8> {
        let payload = format!("{word}|{}", "x".repeat(self.filling));
        let packet = self.inner.udp(&Udp::new(4_000, PORT), payload.as_bytes());
        let inner = Ethernet::ipv4([2, 0, 0, 0, 6, 6], self.vtep_mac).over(&packet);
        self.vxlan.over(&inner)
    }

    fn udp(&self, word: &str) -> Vec<u8> {
        let udp = Udp::without_checksum(SOURCE_PORT, VXLAN_PORT);
        self.outer.udp(&udp, &self.vxlan(word))
    }

    pub(crate) fn frame(&self, word: &str) -> Vec<u8> {
        ethernet().over(&self.udp(word))
    }

    /// The same packet, cut in two on its way.
    fn fragments(&self, word: &str) -> Vec<Vec<u8>> {
        let whole = self.udp(word);
        let payload = &whole[Ipv4::LENGTH..];
        let (first, second) = payload.split_at(64);
        let part = |fragment, bytes: &[u8]| {
            let ip = Ipv4 {
                fragment,
                id: 0x4242,
                ..self.outer.clone()
            };
            ethernet().over(&ip.over(bytes))
        };
        vec![part(MORE_FRAGMENTS, first), part(64 / 8, second)]
    }
}

fn ethernet() -> Ethernet {
    Ethernet::ipv4(uplink_mac(STRANGER), UPLINK_MAC_A)
}

/// Every kind.
pub(crate) fn all(target: &Target) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let mut kind = |name, reason, arrives, change: &dyn Fn(&mut Forged)| {
        let mut forged = Forged::new(target);
        change(&mut forged);
        kinds.push(Kind {
            name,
            reason,
            judged: 1,
            arrives,
            frames: vec![forged.frame(name)],
        });
    };
    kind("wrong source", "unknown_vtep", Arrives::Victim, &|forged| {
        forged.outer.source = STRANGER;
    });
    kind(
        "to the gateway",
        "unknown_vtep",
        Arrives::Victim,
        &|forged| {
            forged.outer.source = STRANGER;
            forged.outer.destination = target.gateway;
        },
    );
    kind("options", "unknown_vtep", Arrives::Victim, &|forged| {
        forged.outer.source = STRANGER;
        forged.outer.options = vec![1; 4];
    });
    kind("wrong VNI", "wrong_vni", Arrives::Nowhere, &|forged| {
        forged.vxlan = Vxlan::new(VNI + 1);
    });
    kind("flags", "vxlan_flags", Arrives::Nowhere, &|forged| {
        forged.vxlan.flags = VXLAN_I | 1;
    });
    let foreign = "foreign_inner_source";
    kind("inner source", foreign, Arrives::Victim, &|forged| {
        forged.inner.source = target.other_pod;
    });
    let elsewhere = "foreign_inner_destination";
    kind("inner destination", elsewhere, Arrives::Other, &|forged| {
        forged.inner.destination = target.other_pod;
    });

    let mut stranger = Forged::new(target);
    stranger.outer.source = STRANGER;
    kinds.push(Kind {
        name: "fragments",
        reason: "unknown_vtep",
        judged: 1,
        arrives: Arrives::Victim,
        frames: stranger.fragments("fragments"),
    });
    let tagged = stranger.frame("tag");
    kinds.push(Kind {
        name: "tag",
        reason: "unknown_vtep",
        judged: 1,
        arrives: Arrives::Victim,
        frames: vec![[&tagged[..12], &[0x81, 0, 0, 0], &tagged[12..]].concat()],
    });
    let whole = Forged::new(target).frame("truncated");
    let cut: Vec<_> = (UDP_END..whole.len())
        .map(|length| whole[..length].to_vec())
        .collect();
    kinds.push(Kind {
        name: "truncated",
        reason: "truncated",
        judged: cut.len() as u64,
        arrives: Arrives::Nowhere,
        frames: cut,
    });
    kinds
}
