//! What flannel has in netfilter: masquerading of what leaves the overlay, and a word for what is
//! forwarded to it and from it, by iptables or by nftables.
//!
//! It matters to the fast path: a CNI plugin told that nobody masquerades does it itself, for
//! pods of other nodes as well, and a flow whose source is rewritten is never fast.
//!
//! Every change is one transaction, so there is no moment without rules. Nothing is taken away
//! at the end: packets go on without us.

mod chains;
pub(super) mod iptables;
mod nftables;

use thiserror::Error;
use tracing::{info, warn};
use twill_core::subnet::Subnet;

use self::chains::{Chain, Networks};
pub use self::iptables::IptablesError;
use self::iptables::{Iptables, Written};
use super::keeper::Rules;
use super::ruleset::{InForce, TableError};

/// What the rules are written with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tool {
    /// `iptables`, flannel's default. Where there is none, `nft`.
    Iptables,
    /// `nft`, with `EnableNFTables`.
    Nftables,
}

/// What the rules say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TrafficRules {
    /// What they are written with.
    pub tool: Tool,
    /// The whole overlay prefix.
    pub network: Subnet,
    /// The node's own part of it.
    pub own_subnet: Subnet,
    /// The overlay prefix of before, where it was another one: what speaks of it is ours too.
    pub former: Option<Subnet>,
    /// `--ip-masq`.
    pub masquerade: bool,
    /// `--iptables-forward-rules`.
    pub forward: bool,
    /// Whether source ports are to be picked at random, where that is possible; not with
    /// `--ip-masq-fully-random-disable`.
    pub random_fully: bool,
}

/// Rules as the kernel had them right after they were written.
#[derive(Debug)]
pub struct TrafficProof(Proof);

#[derive(Debug)]
enum Proof {
    Chains(Vec<Written>),
    Table(InForce),
    Nothing,
}

/// Why the rules are not in force.
#[derive(Debug, Error)]
pub enum TrafficError {
    /// Something about iptables.
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    /// Something about nftables.
    #[error(transparent)]
    Nftables(#[from] TableError),
}

impl Rules for TrafficRules {
    type Proof = TrafficProof;
    type Error = TrafficError;

    fn name(&self) -> String {
        "flannel's masquerade and forward rules".to_owned()
    }

    // Those of the other tool go when ours are there.
    async fn write(&self) -> Result<TrafficProof, TrafficError> {
        if !self.masquerade && !self.forward {
            return Ok(TrafficProof(Proof::Nothing));
        }
        let found = Iptables::find().await;
        let proof = match (self.tool, found) {
            (Tool::Iptables, Ok(Some(iptables))) => {
                let proof = self.write_chains(iptables).await?;
                // Flannel does not mind if there is no nft either.
                tell(
                    "nftables",
                    nftables::Table::remove_all(self.networks()).await,
                );
                proof
            }
            (Tool::Iptables, Err(error)) => return Err(error.into()),
            (Tool::Iptables, Ok(None)) => {
                warn!("there is no `iptables` in PATH; flannel's rules are written with `nft`");
                self.write_table().await?
            }
            (Tool::Nftables, found) => {
                let proof = self.write_table().await?;
                match found {
                    Ok(Some(iptables)) => {
                        let networks = self.networks();
                        for chain in [Chain::no_masquerade(networks), Chain::no_forward(networks)] {
                            tell("iptables", iptables.remove(&chain).await);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => tell("iptables", Err(error)),
                }
                proof
            }
        };
        Ok(TrafficProof(proof))
    }

    async fn hold(proof: &TrafficProof) -> Result<bool, TrafficError> {
        match &proof.0 {
            Proof::Nothing => Ok(true),
            Proof::Table(in_force) => Ok(in_force.is_so().await?),
            Proof::Chains(written) => {
                for chain in written {
                    if !chain.is_so().await? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

impl TrafficRules {
    fn networks(&self) -> Networks {
        Networks {
            network: self.network,
            former: self.former,
        }
    }

    async fn write_chains(&self, iptables: Iptables) -> Result<Proof, IptablesError> {
        let random_fully = self.random_fully && iptables.has_random_fully();
        let mut written = Vec::new();
        if self.masquerade {
            let chain = Chain::masquerade(self.networks(), self.own_subnet, random_fully);
            written.push(iptables.put(chain).await?);
        }
        if self.forward {
            written.push(iptables.put(Chain::forward(self.networks())).await?);
        }
        info!(
            masquerade = self.masquerade,
            forward = self.forward,
            random_fully,
            "flannel's rules are in force, by iptables"
        );
        Ok(Proof::Chains(written))
    }

    async fn write_table(&self) -> Result<Proof, TableError> {
        let random_fully =
            self.masquerade && self.random_fully && nftables::has_random_fully().await?;
        let table = nftables::Table {
            networks: self.networks(),
            masquerade: self.masquerade.then_some(self.own_subnet),
            forward: self.forward,
            random_fully,
        };
        let in_force = table.write().await?;
        info!(
            masquerade = self.masquerade,
            forward = self.forward,
            random_fully,
            "flannel's rules are in force, by nftables"
        );
        Ok(Proof::Table(in_force))
    }
}

/// Rules of the other tool that stay do less harm than none of our own.
fn tell(tool: &str, removed: Result<bool, impl std::error::Error>) {
    match removed {
        Ok(false) => {}
        Ok(true) => info!(tool, "the rules of the other tool are removed"),
        Err(error) => {
            let error = twill_core::chain::chain(&error);
            warn!(tool, error, "rules of the other tool may be left");
        }
    }
}
