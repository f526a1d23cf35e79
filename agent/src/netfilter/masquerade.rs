//! The table `ip flannel-ipv4`: what leaves the overlay goes out under the node's address, what
//! stays in it keeps its own.
//!
//! Name, chains and rules, comments aside, are those of flannel with `EnableNFTables` (flannel 0.28.9,
//! `pkg/trafficmngr/nftables`), so that either takes over the other's. It matters to the fast
//! path: a CNI plugin told that nobody masquerades does it itself, for pods of other nodes as
//! well, and a flow whose source is rewritten is never fast.

use serde_json::{Value, json};
use twill_core::subnet::Subnet;

use super::expression::{address, differs, equals, mark, prefix};
use super::keeper::Rules;
use super::ruleset::{InForce, TableError};

const FAMILY: &str = "ip";
const TABLE: &str = "flannel-ipv4";
const POSTROUTING: &str = "postrtg";
const FORWARD: &str = "forward";
/// `srcnat`.
const SOURCE_NAT: i32 = 100;
/// kube-proxy's mark for what it masquerades itself.
const KUBE_MASQUERADE: u32 = 0x4000;

/// What the table says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MasqueradeTable {
    /// The whole overlay prefix.
    pub network: Subnet,
    /// The node's own part of it.
    pub own_subnet: Subnet,
}

impl Rules for MasqueradeTable {
    type Proof = InForce;
    type Error = TableError;

    fn name() -> &'static str {
        "nftables table ip flannel-ipv4"
    }

    // What is there under its name before us is flannel's own, as a rule.
    async fn write(&self) -> Result<InForce, TableError> {
        InForce::write(FAMILY, TABLE, &self.document()).await
    }

    async fn hold(proof: &InForce) -> Result<bool, TableError> {
        proof.is_so().await
    }
}

impl MasqueradeTable {
    fn document(&self) -> Value {
        let table = json!({ "family": FAMILY, "name": TABLE });
        let chain = |name: &str, kind: &str, hook: &str, priority: i32| {
            json!({ "add": { "chain": {
                "family": FAMILY, "table": TABLE, "name": name,
                "type": kind, "hook": hook, "prio": priority, "policy": "accept",
            }}})
        };
        let mut commands = vec![
            json!({ "add": { "table": table } }),
            json!({ "delete": { "table": table } }),
            json!({ "add": { "table": table } }),
            chain(POSTROUTING, "nat", "postrouting", SOURCE_NAT),
            chain(FORWARD, "filter", "forward", 0),
        ];
        let rules = [(POSTROUTING, self.postrouting()), (FORWARD, self.forward())];
        for (chain, rules) in rules {
            commands.extend(rules.into_iter().map(|expr| {
                json!({ "add": { "rule": {
                    "family": FAMILY, "table": TABLE, "chain": chain, "expr": expr,
                }}})
            }));
        }
        json!({ "nftables": commands })
    }

    fn postrouting(&self) -> Vec<Value> {
        let own = prefix(&self.own_subnet.network(), self.own_subnet.prefix());
        let network = prefix(&self.network.network(), self.network.prefix());
        let multicast = prefix(&"224.0.0.0", 4);
        let (source, destination) = (address("saddr"), address("daddr"));
        let leave = json!({ "return": null });
        let masquerade = json!({ "masquerade": { "flags": "fully-random" } });
        vec![
            json!([equals(&mark(), &json!(KUBE_MASQUERADE)), leave]),
            json!([equals(&source, &own), equals(&destination, &network), leave]),
            json!([equals(&source, &network), equals(&destination, &own), leave]),
            json!([
                differs(&source, &own),
                equals(&destination, &network),
                leave
            ]),
            json!([
                equals(&source, &network),
                differs(&destination, &multicast),
                masquerade
            ]),
            json!([
                differs(&source, &network),
                equals(&destination, &network),
                masquerade
            ]),
        ]
    }

    fn forward(&self) -> Vec<Value> {
        let network = prefix(&self.network.network(), self.network.prefix());
        let accept = json!({ "accept": null });
        ["saddr", "daddr"]
            .map(|end| json!([equals(&address(end), &network), accept]))
            .into()
    }
}
