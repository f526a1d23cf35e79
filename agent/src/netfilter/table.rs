//! The nftables table `inet twill`: at the very end of postrouting, after every filter and NAT
//! chain, it marks packets of the cluster network that belong to an established connection.
//!
//! The table is written whole in one transaction, so there is no moment without its rules, and
//! none with half of them.

use std::collections::BTreeSet;

use ipnetwork::Ipv4Network;
use serde_json::{Value, json};
use twill_core::subnet::Subnet;

use super::expression::{address, and, differs, equals, mark, prefix, set_mark};
use super::keeper::Rules;
use super::ruleset::{self, InForce, TableError};

/// Name of the table; its family is `inet`.
pub const TABLE: &str = "twill";
const FAMILY: &str = "inet";
const CHAIN: &str = "permits";
const EXCLUDE: &str = "exclude";

/// After every other chain of the hook.
const LAST: i32 = i32::MAX;

/// `IPS_HELPER | IPS_SEQ_ADJUST` (`include/uapi/linux/netfilter/nf_conntrack_common.h`): flows
/// whose payload conntrack reads or whose sequence numbers it shifts.
const STATUS_NEVER_FAST: u32 = (1 << 13) | (1 << 6);

/// What the table says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PermitTable {
    /// The whole overlay prefix.
    pub network: Subnet,
    /// The node's own part of it.
    pub own_subnet: Subnet,
    /// The one bit of the packet mark that says "accepted as established".
    pub mark_bit: u32,
    /// Addresses whose flows never get a permit.
    pub exclude: Vec<Ipv4Network>,
}

impl Rules for PermitTable {
    type Proof = InForce;
    type Error = TableError;

    fn name() -> &'static str {
        "nftables table inet twill"
    }

    async fn write(&self) -> Result<InForce, TableError> {
        InForce::write(FAMILY, TABLE, &self.document()).await
    }

    async fn hold(proof: &InForce) -> Result<bool, TableError> {
        proof.is_so().await
    }
}

impl PermitTable {
    /// Whether a table of this name is there. Where there is no `nft`, nobody made one.
    pub async fn is_there() -> Result<bool, TableError> {
        ruleset::is_there(FAMILY, TABLE).await
    }

    /// Removes the table, if it is there.
    pub async fn remove() -> Result<(), TableError> {
        ruleset::remove(FAMILY, TABLE).await
    }

    fn document(&self) -> Value {
        let table = json!({ "family": FAMILY, "name": TABLE });
        let mut commands = vec![
            json!({ "add": { "table": table } }),
            json!({ "delete": { "table": table } }),
            json!({ "add": { "table": table } }),
            json!({ "add": { "set": {
                "family": FAMILY, "table": TABLE, "name": EXCLUDE,
                "type": "ipv4_addr", "flags": ["interval"],
            }}}),
            json!({ "add": { "chain": {
                "family": FAMILY, "table": TABLE, "name": CHAIN,
                "type": "filter", "hook": "postrouting", "prio": LAST, "policy": "accept",
            }}}),
        ];
        let excluded = outermost(&self.exclude);
        if !excluded.is_empty() {
            let elements: Vec<Value> = excluded
                .iter()
                .map(|network| prefix(&network.ip(), network.prefix()))
                .collect();
            commands.push(json!({ "add": { "element": {
                "family": FAMILY, "table": TABLE, "name": EXCLUDE, "elem": elements,
            }}}));
        }
        commands.extend(self.rules().into_iter().map(|expr| {
            json!({ "add": { "rule": {
                "family": FAMILY, "table": TABLE, "chain": CHAIN, "expr": expr,
            }}})
        }));
        json!({ "nftables": commands })
    }

    /// First nobody's bit, then ours: somebody else's mark must not issue permits. What is not
    /// established has nothing to hope for and is spared the rest, of which set lookups cost most.
    fn rules(&self) -> Vec<Value> {
        let own = prefix(&self.own_subnet.network(), self.own_subnet.prefix());
        let network = prefix(&self.network.network(), self.network.prefix());
        let mut rules = vec![json!([
            differs(&and(&mark(), self.mark_bit), &json!(0)),
            set_mark(&and(&mark(), !self.mark_bit)),
        ])];
        rules.push(json!([
            differs(
                &json!({ "ct": { "key": "state" } }),
                &json!("established")
            ),
            { "return": null },
        ]));
        for direction in ["saddr", "daddr"] {
            rules.push(json!([
                equals(&address(direction), &json!(format!("@{EXCLUDE}"))),
                { "return": null },
            ]));
        }
        let plain = equals(
            &and(&json!({ "ct": { "key": "status" } }), STATUS_NEVER_FAST),
            &json!(0),
        );
        let zone = equals(&json!({ "ct": { "key": "zone" } }), &json!(0));
        let mark = set_mark(&json!({ "|": [mark(), self.mark_bit] }));
        // Out of our pods to the overlay, and into our pods from wherever netfilter says.
        rules.push(json!([
            equals(&address("saddr"), &own),
            equals(&address("daddr"), &network),
            plain,
            zone,
            mark,
        ]));
        rules.push(json!([equals(&address("daddr"), &own), plain, zone, mark]));
        rules
    }
}

/// The networks that lie in no other, without host bits: `nft` takes no intervals that overlap.
fn outermost(networks: &[Ipv4Network]) -> BTreeSet<Ipv4Network> {
    let networks: BTreeSet<Ipv4Network> = networks
        .iter()
        .filter_map(|network| Ipv4Network::new(network.network(), network.prefix()).ok())
        .collect();
    let lies_in_another = |inner: &Ipv4Network| {
        let mut others = networks.iter();
        others.any(|outer| outer != inner && inner.is_subnet_of(*outer))
    };
    let outermost = networks.iter().filter(|inner| !lies_in_another(inner));
    outermost.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobodys_bit_comes_before_ours() {
        let table = PermitTable {
            network: "10.244.0.0/16".parse().unwrap(),
            own_subnet: "10.244.1.0/24".parse().unwrap(),
            mark_bit: 0x1000,
            exclude: vec!["10.244.9.0/24".parse().unwrap()],
        };
        let rules = table.rules();
        assert_eq!(rules.len(), 6);
        assert_eq!(rules[0][1], set_mark(&and(&mark(), 0xffff_efff)));
        assert_eq!(rules[1][1], json!({ "return": null }));
        assert!(
            rules[4..]
                .iter()
                .all(|rule| rule.to_string().contains("4096"))
        );
    }

    #[test]
    fn excluded_networks_that_overlap_become_one() {
        let parse = |text: &str| text.parse::<Ipv4Network>().unwrap();
        let networks = ["10.1.0.0/16", "10.1.2.3/24", "10.2.0.7/32", "10.1.9.9/16"].map(parse);
        let expected = ["10.1.0.0/16", "10.2.0.7/32"].map(parse);
        assert_eq!(outermost(&networks), BTreeSet::from(expected));
    }
}
