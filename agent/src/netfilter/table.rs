//! The nftables table `inet twill`: at the very end of postrouting, after every filter and NAT
//! chain, it marks packets of the cluster network that belong to an established connection.
//!
//! The table is written whole in one transaction, so there is no moment without its rules, and
//! none with half of them.

use std::collections::BTreeSet;

use ipnetwork::Ipv4Network;
use serde_json::{Value, json};
use thiserror::Error;

use twill_core::subnet::Subnet;

use super::nft::{self, NftError};

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

/// Why the table is not in force.
#[derive(Debug, Error)]
pub enum TableError {
    /// `nft` refused it or could not be run.
    #[error(
        "write nftables table inet {TABLE}; is `nft` installed and does the kernel have nf_tables?"
    )]
    Write(#[source] NftError),
    /// `nft` could not be asked.
    #[error("read nftables table inet {TABLE}")]
    Read(#[source] NftError),
}

/// The table as the kernel had it right after it was written: what `nft` prints differs from
/// version to version, so a later look is compared with an earlier one, not with our own text.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce(Value);

impl InForce {
    /// Whether the kernel still has the table as it was written.
    pub async fn is_so(&self) -> Result<bool, TableError> {
        match list().await {
            Ok(now) => Ok(now == self.0),
            Err(NftError::Refused { .. }) => Ok(false),
            Err(source) => Err(TableError::Read(source)),
        }
    }
}

impl PermitTable {
    /// Writes the table, whatever was there under its name.
    pub async fn write(&self) -> Result<InForce, TableError> {
        apply(&self.document()).await.map_err(TableError::Write)?;
        list().await.map(InForce).map_err(TableError::Read)
    }

    /// Whether a table of this name is there. Where there is no `nft`, nobody made one.
    pub async fn is_there() -> Result<bool, TableError> {
        match list().await {
            Ok(_) => Ok(true),
            Err(NftError::Refused { .. }) => Ok(false),
            Err(NftError::Run { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(false)
            }
            Err(source) => Err(TableError::Read(source)),
        }
    }

    /// Removes the table, if it is there.
    pub async fn remove() -> Result<(), TableError> {
        let table = json!({ "family": FAMILY, "name": TABLE });
        // Adding what exists changes nothing, and makes the deletion succeed where it does not.
        let document = json!({ "nftables": [
            { "add": { "table": table } },
            { "delete": { "table": table } },
        ]});
        apply(&document).await.map_err(TableError::Write)
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

    /// First nobody's bit, then ours: somebody else's mark must not issue permits.
    fn rules(&self) -> Vec<Value> {
        let own = prefix(&self.own_subnet.network(), self.own_subnet.prefix());
        let network = prefix(&self.network.network(), self.network.prefix());
        let mut rules = vec![json!([
            differs(&and(&mark(), self.mark_bit), 0),
            set_mark(&and(&mark(), !self.mark_bit)),
        ])];
        for direction in ["saddr", "daddr"] {
            rules.push(json!([
                equals(&address(direction), &json!(format!("@{EXCLUDE}"))),
                { "return": null },
            ]));
        }
        let established = json!({ "match": {
            "op": "in", "left": { "ct": { "key": "state" } }, "right": "established",
        }});
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
            established,
            plain,
            zone,
            mark,
        ]));
        rules.push(json!([
            equals(&address("daddr"), &own),
            established,
            plain,
            zone,
            mark
        ]));
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

async fn apply(document: &Value) -> Result<(), NftError> {
    let text = document.to_string();
    nft::run(&["-j", "-f", "-"], &text).await.map(drop)
}

/// The table as `nft` prints it, without the handles that differ from one writing to the next.
async fn list() -> Result<Value, NftError> {
    let printed = nft::run(&["-j", "list", "table", FAMILY, TABLE], "").await?;
    let mut document = serde_json::from_slice(&printed).unwrap_or(Value::Null);
    strip_handles(&mut document);
    Ok(document)
}

fn strip_handles(value: &mut Value) {
    match value {
        Value::Array(entries) => entries.iter_mut().for_each(strip_handles),
        Value::Object(fields) => {
            fields.remove("handle");
            fields.values_mut().for_each(strip_handles);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn mark() -> Value {
    json!({ "meta": { "key": "mark" } })
}

fn and(left: &Value, right: u32) -> Value {
    json!({ "&": [left, right] })
}

fn address(direction: &str) -> Value {
    json!({ "payload": { "protocol": "ip", "field": direction } })
}

fn prefix(address: &impl ToString, len: u8) -> Value {
    json!({ "prefix": { "addr": address.to_string(), "len": len } })
}

fn equals(left: &Value, right: &Value) -> Value {
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

fn differs(left: &Value, right: u32) -> Value {
    json!({ "match": { "op": "!=", "left": left, "right": right } })
}

fn set_mark(value: &Value) -> Value {
    json!({ "mangle": { "key": mark(), "value": value } })
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
        assert_eq!(rules.len(), 5);
        assert_eq!(rules[0][1], set_mark(&and(&mark(), 0xffff_efff)));
        assert!(
            rules[3..]
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

    #[test]
    fn handles_do_not_count() {
        let mut printed = json!({ "nftables": [{ "table": { "name": "twill", "handle": 7 } }] });
        strip_handles(&mut printed);
        assert_eq!(
            printed,
            json!({ "nftables": [{ "table": { "name": "twill" } }] })
        );
    }
}
