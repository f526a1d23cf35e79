//! A node set up by hand as flannel's vxlan backend does it: the kernel's own device, and
//! a neighbour, an FDB entry and a route for each lease.
//!
//! After flannel 0.28.9, `pkg/backend/vxlan/{device,vxlan_network}.go`.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use ipnetwork::Ipv4Network;

use crate::netns::Prefix;
use crate::pod::Pod;
use crate::subnet_env::{Delegate, SubnetEnv};
use crate::topology::{Node, Underlay, UnderlayOptions};
use crate::world::{
    ENCAP_OVERHEAD_BYTES, Mac, NETWORK, NODE_A, NODE_B, OVERLAY_LINK, PORT, SUBNET_A, SUBNET_B,
    UPLINK, VNI, VTEP_MAC_A, VTEP_MAC_B, mac_text,
};

/// A lease as a peer sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The subnet.
    pub subnet: Ipv4Network,
    /// Underlay address of the node that holds it.
    pub underlay: Ipv4Addr,
    /// MAC address of that node's vxlan device.
    pub vtep_mac: Mac,
}

impl Peer {
    /// The lease of `subnet` (as `10.244.1.0/24`).
    pub fn new(subnet: &str, underlay: Ipv4Addr, vtep_mac: Mac) -> Result<Self> {
        Ok(Self {
            subnet: subnet.parse().with_context(|| format!("subnet {subnet}"))?,
            underlay,
            vtep_mac,
        })
    }
}

/// Makes `flannel.1` with the node's own lease, writes `subnet.env` into the node's
/// directory, and gives its contents for [`crate::pod::Pod::add`].
pub fn set_up(node: &Node, own: &Peer) -> Result<SubnetEnv> {
    let mtu_bytes = node.uplink_mtu_bytes()? - ENCAP_OVERHEAD_BYTES;
    let Peer {
        subnet,
        underlay,
        vtep_mac,
    } = own;
    let mac = mac_text(*vtep_mac);
    let overlay = subnet.network();
    node.namespace().run_lines(&format!(
        "ip link add {OVERLAY_LINK} mtu {mtu_bytes} address {mac} type vxlan id {VNI} local {underlay} dev {UPLINK} dstport {PORT} nolearning
         ip addr add {overlay}/32 dev {OVERLAY_LINK}
         ip link set {OVERLAY_LINK} up"
    ))?;
    let gateway = subnet
        .nth(1)
        .with_context(|| format!("no gateway in {subnet}"))?;
    let env = SubnetEnv {
        network: NETWORK.parse()?,
        subnet: Ipv4Network::new(gateway, subnet.prefix())?,
        mtu_bytes,
        ip_masq: true,
    };
    let path = node.directory().join("subnet.env");
    fs::write(&path, env.text()).with_context(|| format!("write {}", path.display()))?;
    Ok(env)
}

/// Makes the peer reachable, in flannel's order: neighbour, FDB, route.
pub fn add_peer(node: &Node, peer: &Peer) -> Result<()> {
    let Peer {
        subnet,
        underlay,
        vtep_mac,
    } = peer;
    let mac = mac_text(*vtep_mac);
    let overlay = subnet.network();
    node.namespace().run_lines(&format!(
        "ip neigh replace {overlay} lladdr {mac} dev {OVERLAY_LINK} nud permanent
         bridge fdb replace {mac} dev {OVERLAY_LINK} dst {underlay} self permanent
         ip route replace {subnet} via {overlay} dev {OVERLAY_LINK} onlink"
    ))
}

/// Takes the peer away again.
pub fn remove_peer(node: &Node, peer: &Peer) -> Result<()> {
    let Peer {
        subnet,
        underlay,
        vtep_mac,
    } = peer;
    let mac = mac_text(*vtep_mac);
    let overlay = subnet.network();
    node.namespace().run_lines(&format!(
        "ip neigh del {overlay} dev {OVERLAY_LINK}
         bridge fdb del {mac} dev {OVERLAY_LINK} dst {underlay} self
         ip route del {subnet} via {overlay} dev {OVERLAY_LINK} onlink"
    ))
}

/// Two stock nodes, `a` and `b`, that know each other, with a pod each.
#[derive(Debug)]
pub struct Pair {
    /// The pods.
    pub pods: [Pod; 2],
    /// The nodes.
    pub nodes: [Node; 2],
    /// What each of the nodes is to the other.
    pub peers: [Peer; 2],
    /// The network between them.
    pub underlay: Underlay,
}

impl Pair {
    /// A pair whose pods are wired by the bridge plugin.
    pub fn new(options: UnderlayOptions) -> Result<Self> {
        Self::by(Delegate::Bridge, options)
    }

    /// A pair whose pods are wired by this plugin.
    pub fn by(delegate: Delegate, options: UnderlayOptions) -> Result<Self> {
        let underlay = Underlay::with(Prefix::unique(), options)?;
        let nodes = [underlay.join("a", NODE_A)?, underlay.join("b", NODE_B)?];
        let peers = [
            Peer::new(SUBNET_A, NODE_A, VTEP_MAC_A)?,
            Peer::new(SUBNET_B, NODE_B, VTEP_MAC_B)?,
        ];
        let env_a = set_up(&nodes[0], &peers[0])?;
        let env_b = set_up(&nodes[1], &peers[1])?;
        add_peer(&nodes[0], &peers[1])?;
        add_peer(&nodes[1], &peers[0])?;
        let pods = [
            Pod::add_by(delegate, &nodes[0], "1", &env_a)?,
            Pod::add_by(delegate, &nodes[1], "1", &env_b)?,
        ];
        Ok(Self {
            pods,
            nodes,
            peers,
            underlay,
        })
    }
}
