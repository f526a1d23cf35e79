//! Rules of another kind that drop what ours accept: iptables has two kinds of tables that do not
//! know of each other, and a packet has to pass both.

use std::collections::BTreeSet;
use std::fs;

use nix::ifaddrs::getifaddrs;
use tracing::debug;
use twill_core::condition::Overruled;
use twill_core::forward::Overlay;

use super::program;
use super::traffic::{Tool, TrafficRules};

/// The tables of the legacy kind that are there in this network namespace. Asking iptables itself
/// would make them.
const LEGACY_TABLES: &str = "/proc/self/net/ip_tables_names";

const LEGACY: &str = "iptables-legacy";
const NFT: &str = "iptables-nft";

impl TrafficRules {
    /// A chain that ours are not in, and that drops all of the overlay that is forwarded. What
    /// cannot be read is not told.
    pub async fn overruled(&self) -> Option<Overruled> {
        let tables = fs::read_to_string(LEGACY_TABLES).unwrap_or_default();
        let legacy_there = tables.lines().any(|table| table == "filter");
        let (ours, others): (_, &[&'static str]) = match self.tool {
            Tool::Nftables if legacy_there => ("nft", &[NFT, LEGACY]),
            Tool::Nftables => ("nft", &[NFT]),
            // Ours would be there.
            Tool::Iptables if !legacy_there => return None,
            Tool::Iptables => match kind_of_ours().await? {
                LEGACY => (LEGACY, &[NFT]),
                ours => (ours, &[LEGACY]),
            },
        };
        let overlay = Overlay {
            network: self.network,
            links: self.links(),
        };
        for &by in others {
            match program::run(by, &["-w", "2", "-S"], "").await {
                Ok(printed) => {
                    if overlay.is_dropped_by(&String::from_utf8_lossy(&printed)) {
                        return Some(Overruled { by, ours });
                    }
                }
                Err(error) => debug!(by, %error, "rules of the other kind cannot be read"),
            }
        }
        None
    }

    /// The interfaces with an address of the overlay: its device and the pods' bridge.
    fn links(&self) -> BTreeSet<String> {
        let addresses = getifaddrs().into_iter().flatten();
        let ours = addresses.filter(|interface| {
            let address = interface.address.as_ref();
            let address = address.and_then(|address| address.as_sockaddr_in());
            address.is_some_and(|address| self.network.contains(address.ip().into()))
        });
        ours.map(|interface| interface.interface_name).collect()
    }
}

/// Which kind `iptables` is; before there were two it was the one that is legacy now.
async fn kind_of_ours() -> Option<&'static str> {
    let said = program::run("iptables", &["--version"], "").await.ok()?;
    let said = String::from_utf8_lossy(&said);
    Some(if said.contains("nf_tables") {
        NFT
    } else {
        LEGACY
    })
}
