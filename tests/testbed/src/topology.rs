//! The underlay: a switch in a namespace of its own, and nodes plugged into it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;

use crate::command;
use crate::directory::Directory;
use crate::netns::{Namespace, Prefix};
use crate::world::{GATEWAY, UNDERLAY_PREFIX, UPLINK, mac_text, uplink_mac};

/// The network of a host [`behind`] a node, of RFC 5737.
const SERVER_NETWORK: &str = "198.51.100.0/30";
const SERVER_GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Its address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// What crosses the wire between two nodes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Offload {
    /// GSO packets of up to 64 KiB cross whole, as between veths or virtio-net guests.
    #[default]
    Gso,
    /// Frames of the MTU's size cross, as from a NIC: the sender cuts, the receiver's GRO
    /// puts together again.
    Nic,
}

/// How the underlay is built.
#[derive(Clone, Copy, Debug)]
pub struct UnderlayOptions {
    /// MTU of the switch and of every uplink, in bytes.
    pub mtu_bytes: u32,
    /// What crosses the wire.
    pub offload: Offload,
}

impl Default for UnderlayOptions {
    fn default() -> Self {
        Self {
            mtu_bytes: 1500,
            offload: Offload::Gso,
        }
    }
}

/// The network between the nodes, 192.0.2.0/24: a bridge that stands for a switch. Keep it
/// as long as its nodes.
#[derive(Debug)]
pub struct Underlay {
    switch: Namespace,
    prefix: Prefix,
    options: UnderlayOptions,
}

impl Underlay {
    /// An underlay with unique names, an MTU of 1500 and GSO.
    pub fn new() -> Result<Self> {
        Self::with(Prefix::unique(), UnderlayOptions::default())
    }

    /// An underlay whose namespaces are called `<prefix>-…`.
    pub fn with(prefix: Prefix, options: UnderlayOptions) -> Result<Self> {
        let switch = Namespace::under(&prefix, "switch")?;
        let UnderlayOptions { mtu_bytes, .. } = options;
        switch.run_lines(&format!(
            "ip link add name switch type bridge
             ip link set dev switch mtu {mtu_bytes} up
             ip addr add {GATEWAY}/{UNDERLAY_PREFIX} dev switch"
        ))?;
        // The switch forwards frames; it does not ask a host's firewall about them.
        if switch.sysctl("net.bridge.bridge-nf-call-iptables").is_ok() {
            switch.set_sysctl("net.bridge.bridge-nf-call-iptables", "0")?;
        }
        Ok(Self {
            switch,
            prefix,
            options,
        })
    }

    /// The prefix of all names here.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// The namespace with the bridge `switch`, whose ports are called as the nodes.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Adds a node with the uplink `eth0`, forwarding on, and a default route to the
    /// gateway. `label` is at most 15 bytes: it names the port on the switch too.
    pub fn join(&self, label: &str, address: Ipv4Addr) -> Result<Node> {
        let node = Node::bare(&self.prefix, label, address)?;
        let UnderlayOptions { mtu_bytes, .. } = self.options;
        let mac = mac_text(uplink_mac(address));
        let name = node.namespace().name();
        self.switch.run_lines(&format!(
            "ip link add name {label} mtu {mtu_bytes} type veth peer name {UPLINK} mtu {mtu_bytes} address {mac} netns {name}
             ip link set dev {label} master switch up"
        ))?;
        node.set_up_uplink(self.options)?;
        node.namespace
            .run_lines(&format!("ip route add default via {GATEWAY} dev {UPLINK}"))?;
        Ok(node)
    }
}

/// Two nodes with a cable between their uplinks: the least that there can be between nodes.
pub fn cable(
    prefix: &Prefix,
    options: UnderlayOptions,
    ends: [(&str, Ipv4Addr); 2],
) -> Result<[Node; 2]> {
    let [(label_a, address_a), (label_b, address_b)] = ends;
    let a = Node::bare(prefix, label_a, address_a)?;
    let b = Node::bare(prefix, label_b, address_b)?;
    let UnderlayOptions { mtu_bytes, .. } = options;
    let [mac_a, mac_b] = [address_a, address_b].map(|address| mac_text(uplink_mac(address)));
    let name_b = b.namespace().name();
    a.namespace().run_lines(&format!(
        "ip link add name {UPLINK} mtu {mtu_bytes} address {mac_a} type veth peer name {UPLINK} mtu {mtu_bytes} address {mac_b} netns {name_b}"
    ))?;
    a.set_up_uplink(options)?;
    b.set_up_uplink(options)?;
    Ok([a, b])
}

/// A node whose uplink is a device of this machine, as a virtual machine's NIC: the device is
/// moved to the node, and the kernel gives it back when the node goes.
pub fn plugged(prefix: &Prefix, label: &str, address: Ipv4Addr, device: &str) -> Result<Node> {
    let node = Node::bare(prefix, label, address)?;
    let name = node.namespace().name();
    command::run(&mut command::command(&[
        "ip", "link", "set", "dev", device, "netns", name, "name", UPLINK,
    ])?)?;
    node.set_up_uplink(UnderlayOptions::default())?;
    Ok(node)
}

/// A host behind `near`, on a network of their own, 198.51.100.0/30: what nodes joined by a
/// [`cable`] need a server for is no guest on their cable. `far` reaches it through `near`.
pub fn behind(prefix: &Prefix, label: &str, near: &Node, far: &Node) -> Result<Node> {
    let host = attached_to(prefix, label, near)?;
    reach_behind(far, near.address())?;
    Ok(host)
}

/// [`behind`] without `far`, which may be on another machine: there, [`reach_behind`].
pub fn attached_to(prefix: &Prefix, label: &str, near: &Node) -> Result<Node> {
    let host = Node::bare(prefix, label, SERVER)?;
    let name = host.namespace().name();
    near.namespace().run_lines(&format!(
        "ip link add name {label} type veth peer name {UPLINK} netns {name}
         ip addr add {SERVER_GATEWAY}/30 dev {label}
         ip link set {label} up"
    ))?;
    host.namespace().run_lines(&format!(
        "ip addr add {SERVER}/30 dev {UPLINK}
         ip link set {UPLINK} up
         ip route add default via {SERVER_GATEWAY} dev {UPLINK}"
    ))?;
    Ok(host)
}

/// Lets `far` reach the host behind the node with the address `near`.
pub fn reach_behind(far: &Node, near: Ipv4Addr) -> Result<()> {
    far.namespace()
        .run_lines(&format!("ip route add {SERVER_NETWORK} via {near}"))
}

/// A node: a namespace with an uplink, and a directory for its files.
#[derive(Debug)]
pub struct Node {
    namespace: Arc<Namespace>,
    directory: Directory,
    label: String,
    address: Ipv4Addr,
}

impl Node {
    /// A node without an uplink yet, forwarding on.
    fn bare(prefix: &Prefix, label: &str, address: Ipv4Addr) -> Result<Self> {
        let namespace = Namespace::under(prefix, label)?;
        let directory = Directory::new(namespace.name())?;
        namespace.set_sysctl("net.ipv4.ip_forward", "1")?;
        Ok(Self {
            namespace: Arc::new(namespace),
            directory,
            label: label.to_owned(),
            address,
        })
    }

    /// Gives the uplink, which is there, its address and its offloads, and sets it up.
    fn set_up_uplink(&self, options: UnderlayOptions) -> Result<()> {
        let address = self.address;
        self.namespace.run_lines(&format!(
            "ip addr add {address}/{UNDERLAY_PREFIX} dev {UPLINK}
             ip link set {UPLINK} up"
        ))?;
        if options.offload == Offload::Nic {
            self.namespace.run_lines(&format!(
                "ethtool -K {UPLINK} tso off gso off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off tx-udp-segmentation off gro on"
            ))?;
        }
        Ok(())
    }

    /// Its namespace, which lives until the last of those who hold it is gone: the node, its
    /// pods, its agent.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// Its directory, removed with it.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The short name that it was given.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its underlay address, on `eth0`.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// MTU of the uplink in bytes.
    pub fn uplink_mtu_bytes(&self) -> Result<u32> {
        let link = self.namespace.link_json(UPLINK)?;
        let mtu = link["mtu"].as_u64().and_then(|mtu| u32::try_from(mtu).ok());
        mtu.ok_or_else(|| anyhow::anyhow!("no MTU in {link}"))
    }
}
