//! The nftables table `inet twill` (`inet twill-NAME` of another instance than the default one): at the very end of postrouting, after every filter and NAT
//! chain, it marks packets of the cluster network that belong to an established connection.
//!
//! The table is written whole in one transaction, so there is no moment without its rules, and
//! none with half of them.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use serde_json::{Value, json};
use twill_core::subnet::Subnet;

use super::expression::{address, and, below, differs, equals, is_tcp, mark, prefix, set_mark};
use super::keeper::Rules;
use super::ruleset::{self, InForce, TableError};

/// What every instance called its table before each had its own, and the default one still does.
const FORMER: &str = "twill";
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
    /// Its name; its family is `inet`.
    pub name: String,
    /// The whole overlay prefix.
    pub network: Subnet,
    /// The node's own part of it.
    pub own_subnet: Subnet,
    /// The one bit of the packet mark that says "accepted as established".
    pub mark_bit: u32,
    /// Addresses whose flows never get a permit.
    pub exclude: Vec<Ipv4Network>,
    /// How long permits last.
    pub permit_time: Duration,
}

impl Rules for PermitTable {
    type Proof = InForce;
    type Error = TableError;

    fn name(&self) -> String {
        format!("nftables table {FAMILY} {}", self.name)
    }

    async fn write(&self) -> Result<InForce, TableError> {
        let in_force = InForce::write(FAMILY, &self.name, &self.document()).await?;
        self.remove_former().await?;
        Ok(in_force)
    }

    async fn hold(proof: &InForce) -> Result<bool, TableError> {
        proof.is_so().await
    }
}

impl PermitTable {
    /// Whether a table of this name is there. Where there is no `nft`, nobody made one.
    pub async fn is_there(name: &str) -> Result<bool, TableError> {
        ruleset::is_there(FAMILY, name).await
    }

    /// Removes the table, if it is there.
    pub async fn remove(name: &str) -> Result<(), TableError> {
        ruleset::remove(FAMILY, name).await
    }

    /// Takes away what an earlier Twill wrote for this instance under the name that all shared:
    /// the table that speaks of its subnet.
    async fn remove_former(&self) -> Result<(), TableError> {
        if self.name == FORMER {
            return Ok(());
        }
        let own = prefix(&self.own_subnet.network(), self.own_subnet.prefix());
        if ruleset::speaks_of(FAMILY, FORMER, &own).await? {
            Self::remove(FORMER).await?;
        }
        Ok(())
    }

    fn document(&self) -> Value {
        let name = &self.name;
        let table = json!({ "family": FAMILY, "name": name });
        let mut commands = vec![
            json!({ "add": { "table": table } }),
            json!({ "delete": { "table": table } }),
            json!({ "add": { "table": table } }),
            json!({ "add": { "set": {
                "family": FAMILY, "table": name, "name": EXCLUDE,
                "type": "ipv4_addr", "flags": ["interval"],
            }}}),
            json!({ "add": { "chain": {
                "family": FAMILY, "table": name, "name": CHAIN,
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
                "family": FAMILY, "table": name, "name": EXCLUDE, "elem": elements,
            }}}));
        }
        commands.extend(self.rules().into_iter().map(|expr| {
            json!({ "add": { "rule": {
                "family": FAMILY, "table": name, "chain": CHAIN, "expr": expr,
            }}})
        }));
        json!({ "nftables": commands })
    }

    /// First nobody's bit, then ours: somebody else's mark must not issue permits, and TCP that
    /// comes with it has timeouts of somebody else (`timeouts.rs`). What is not established has
    /// nothing to hope for and is spared the rest, of which set lookups cost most. Neither has a
    /// flow whose entry could end before its permit: a rule, or whoever fixed its timeout, gives
    /// it less than the settings do.
    fn rules(&self) -> Vec<Value> {
        let own = prefix(&self.own_subnet.network(), self.own_subnet.prefix());
        let network = prefix(&self.network.network(), self.network.prefix());
        let nobodys = differs(&and(&mark(), self.mark_bit), &json!(0));
        let clear = set_mark(&and(&mark(), !self.mark_bit));
        let mut rules = vec![
            json!([is_tcp(), nobodys, clear, { "return": null }]),
            json!([nobodys, clear]),
        ];
        rules.push(json!([
            differs(
                &json!({ "ct": { "key": "state" } }),
                &json!("established")
            ),
            { "return": null },
        ]));
        rules.push(json!([
            below(
                &json!({ "ct": { "key": "expiration" } }),
                &json!(format!("{}ms", least_left(self.permit_time).as_millis()))
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

/// What an entry must have left when a permit begins. Conntrack has just begun its timeout anew,
/// and the settings give at least twice the permit time (`Conntrack::smallest_timeout`).
fn least_left(permit_time: Duration) -> Duration {
    permit_time.saturating_add(permit_time / 2)
}

/// The networks that lie in no other, without host bits: `nft` takes no intervals that overlap.
pub(super) fn outermost(networks: &[Ipv4Network]) -> BTreeSet<Ipv4Network> {
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
            name: "twill".to_owned(),
            network: "10.244.0.0/16".parse().unwrap(),
            own_subnet: "10.244.1.0/24".parse().unwrap(),
            mark_bit: 0x1000,
            exclude: vec!["10.244.9.0/24".parse().unwrap()],
            permit_time: Duration::from_secs(5),
        };
        let rules = table.rules();
        assert_eq!(rules.len(), 8);
        assert_eq!(rules[0][2], set_mark(&and(&mark(), 0xffff_efff)));
        assert_eq!(rules[1][1], rules[0][2]);
        assert_eq!(rules[2][1], json!({ "return": null }));
        assert_eq!(rules[3][0]["match"]["right"], json!("7500ms"));
        assert!(
            rules[6..]
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
