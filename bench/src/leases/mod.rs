//! Leases of nodes that do not exist, so many of them that growth shows: put into the
//! kernel's tables, into the programs' maps, into Twill's lease server, or into etcd.

mod etcd;
mod maps;
mod server;

use std::fs;
use std::future::Future;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde_json::json;
use twill_testbed::netns::Namespace;
use twill_testbed::topology::Node;
use twill_testbed::wait::check_interrupt;
use twill_testbed::world::{Mac, OVERLAY_LINK, VNI, mac_text};

pub use self::etcd::EtcdGateway;
pub use self::maps::fill_maps;
pub use self::server::ServerClient;

/// Prefix length of every lease of these.
const PREFIX: u8 = 26;

/// A node that does not exist.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stranger {
    /// Network address of its subnet, a /26.
    pub subnet: Ipv4Addr,
    /// Its underlay address, of RFC 2544.
    pub underlay: Ipv4Addr,
    /// MAC address of its vxlan device.
    pub mac: Mac,
}

impl Stranger {
    /// Number so and so, below 100,000.
    pub fn number(number: u32) -> Self {
        // From 10.1.0.0 to 10.98.0.0: not where real nodes' subnets are.
        let subnet = Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 0).to_bits() + number * 64);
        let underlay = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + number);
        let [_, b, c, d] = number.to_be_bytes();
        Self {
            subnet,
            underlay,
            mac: [0x02, 0x77, 0, b, c, d],
        }
    }

    /// The subnet as `10.1.0.0/26`.
    pub fn prefix(self) -> String {
        format!("{}/{PREFIX}", self.subnet)
    }

    /// flannel's `LeaseAttrs`.
    fn attrs(self) -> serde_json::Value {
        json!({
            "PublicIP": self.underlay.to_string(),
            "PublicIPv6": null,
            "BackendType": "vxlan",
            "BackendData": { "VNI": VNI, "VtepMAC": mac_text(self.mac) },
        })
    }
}

/// Neighbours, FDB entries and routes for so many of them, as flannel would make them.
pub fn fill_kernel(node: &Node, count: u32) -> Result<()> {
    let lines = |line: fn(Stranger) -> String| {
        let lines: Vec<_> = (0..count)
            .map(|number| line(Stranger::number(number)))
            .collect();
        lines.join("\n")
    };
    let neighbours = lines(|Stranger { subnet, mac, .. }| {
        let mac = mac_text(mac);
        format!("neigh replace {subnet} lladdr {mac} dev {OVERLAY_LINK} nud permanent")
    });
    let fdb = lines(|Stranger { underlay, mac, .. }| {
        let mac = mac_text(mac);
        format!("fdb replace {mac} dev {OVERLAY_LINK} dst {underlay} self permanent")
    });
    // All by one gateway, where flannel has one for each: the kernel looks through all next hops
    // of a device for each new one, which takes minutes for as many, and no packet feels it.
    let routes = lines(|stranger| {
        let (destination, gateway) = (stranger.prefix(), Stranger::number(0).subnet);
        format!("route replace {destination} via {gateway} dev {OVERLAY_LINK} onlink")
    });
    for (program, name, lines) in [
        ("ip", "neighbours", neighbours),
        ("bridge", "fdb", fdb),
        ("ip", "routes", routes),
    ] {
        check_interrupt()?;
        let path = node.directory().join(name);
        fs::write(&path, lines).with_context(|| format!("write {}", path.display()))?;
        let path = path.display().to_string();
        node.namespace().run(&[program, "-batch", &path])?;
    }
    Ok(())
}

/// Runs `work` to its end on a thread inside the namespace, where it opens its sockets.
fn inside<T: Send>(host: &Namespace, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    host.enter(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime")?
            .block_on(work)
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_strangers_are_different_and_out_of_the_way() {
        let (first, last) = (Stranger::number(0), Stranger::number(99_999));
        assert_eq!(first.prefix(), "10.1.0.0/26");
        assert_eq!(last.prefix(), "10.98.167.192/26");
        assert_eq!(last.underlay, Ipv4Addr::new(198, 19, 134, 160));
        assert_eq!(mac_text(last.mac), "02:77:00:01:86:9f");
        assert_ne!(first.mac, Stranger::number(1).mac);
    }

    #[test]
    fn attributes_are_flannels() {
        assert_eq!(
            Stranger::number(0).attrs().to_string(),
            r#"{"BackendData":{"VNI":1,"VtepMAC":"02:77:00:00:00:00"},"BackendType":"vxlan","PublicIP":"198.18.0.1","PublicIPv6":null}"#
        );
    }
}
