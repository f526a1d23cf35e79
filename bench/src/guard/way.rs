//! Who drops a stranger's packets, and how it is asked for.

use std::fmt;

use anyhow::{Context, Result};
use aya::programs::{TcAttachType, XdpMode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use twill_abi::{Program, Reason};
use twill_testbed::command;

use super::flood::Hole;
use crate::programs::lab::Lab;
use crate::programs::scene::{PORT, underlay};

/// The interface that frames arrive by.
pub(super) const INTERFACE: &str = "eth0";
/// Name of the table and of the counter in it.
const TABLE: &str = "flood";

/// Who drops.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// A program at XDP in the driver that drops whatever comes: what the generator, the veth and
    /// XDP itself cost.
    Hole,
    /// The guard at XDP in the driver.
    GuardNative,
    /// The guard at XDP in the stack.
    GuardGeneric,
    /// The guard at TC.
    GuardTc,
    /// A rule of nftables on the interface's ingress hook.
    NftIngress,
    /// The same rule in prerouting, before connection tracking.
    NftRaw,
}

impl Way {
    pub(super) const ALL: [Self; 6] = [
        Self::Hole,
        Self::GuardNative,
        Self::GuardGeneric,
        Self::GuardTc,
        Self::NftIngress,
        Self::NftRaw,
    ];
    /// Those of the guard.
    pub(super) const GUARDS: [Self; 3] = [Self::GuardNative, Self::GuardGeneric, Self::GuardTc];
    /// Those that the guard is held against.
    pub(super) const RULES: [Self; 2] = [Self::NftIngress, Self::NftRaw];

    /// The family and the hook of its rule.
    fn rule(self) -> Option<(&'static str, String)> {
        match self {
            Self::NftIngress => Some((
                "netdev",
                format!("filter hook ingress device {INTERFACE} priority 0"),
            )),
            Self::NftRaw => Some(("ip", "filter hook prerouting priority raw".to_owned())),
            Self::Hole | Self::GuardNative | Self::GuardGeneric | Self::GuardTc => None,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Hole => "nothing but a drop, XDP native",
            Self::GuardNative => "guard, XDP native",
            Self::GuardGeneric => "guard, XDP generic",
            Self::GuardTc => "guard, TC",
            Self::NftIngress => "nftables, netdev ingress",
            Self::NftRaw => "nftables, raw prerouting",
        })
    }
}

/// Does some work while packets are dropped in this way. In the victim's namespace.
pub(super) fn during<T>(
    way: Way,
    lab: &mut Lab,
    hole: &mut Hole,
    work: impl FnOnce(&Lab) -> Result<T>,
) -> Result<T> {
    match way {
        Way::Hole => {
            let link = hole.program()?.attach(INTERFACE, XdpMode::Driver)?;
            let done = work(lab);
            hole.program()?.detach(link)?;
            done
        }
        Way::GuardNative | Way::GuardGeneric => {
            let mode = if way == Way::GuardNative {
                XdpMode::Driver
            } else {
                XdpMode::Skb
            };
            let link = lab.guard()?.attach(INTERFACE, mode)?;
            let done = work(lab);
            lab.guard()?.detach(link)?;
            done
        }
        Way::GuardTc => {
            let program = lab.classifier(Program::FromUplink)?;
            let link = program.attach(INTERFACE, TcAttachType::Ingress)?;
            let done = work(lab);
            lab.classifier(Program::FromUplink)?.detach(link)?;
            done
        }
        Way::NftIngress | Way::NftRaw => {
            let (family, hook) = way.rule().context("a rule")?;
            nft(&rules(family, &hook, lab.leases()))?;
            let done = work(lab);
            nft(&format!("delete table {family} {TABLE}"))?;
            done
        }
    }
}

/// How many packets were dropped in this way until now; nothing where nobody counts.
pub(super) fn dropped(way: Way, lab: &Lab) -> Result<Option<u64>> {
    if let Some((family, _)) = way.rule() {
        let words = ["nft", "-j", "list", "counter", family, TABLE, TABLE];
        let text = command::run(&mut command::command(&words)?)?;
        return counter(&text).map(Some);
    }
    if way == Way::Hole {
        return Ok(None);
    }
    let counted = lab.counted(Program::Guard)?;
    Ok(counted.get(&Reason::UnknownVtep).copied())
}

/// What the guard drops of a stranger's, as a rule: VXLAN from an address that is no VTEP's.
fn rules(family: &str, hook: &str, leases: u32) -> String {
    let vteps: Vec<_> = (1..=leases)
        .map(|place| underlay(place).to_string())
        .collect();
    format!(
        "table {family} {TABLE} {{
            counter {TABLE} {{ }}
            set vteps {{ type ipv4_addr; elements = {{ {} }} }}
            chain strangers {{
                type {hook}; policy accept;
                udp dport {PORT} ip saddr != @vteps counter name {TABLE} drop
            }}
        }}",
        vteps.join(", ")
    )
}

fn nft(text: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new().context("make a file")?;
    std::io::Write::write_all(&mut file, text.as_bytes()).context("write rules")?;
    let path = file.path().to_str().context("a path of text")?;
    command::run(&mut command::command(&["nft", "-f", path])?)?;
    Ok(())
}

fn counter(text: &str) -> Result<u64> {
    let list: Value = serde_json::from_str(text).context("nft printed no JSON")?;
    let mut found = list["nftables"].as_array().into_iter().flatten();
    let packets = found.find_map(|one| one["counter"]["packets"].as_u64());
    packets.with_context(|| format!("no counter in {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_drops_everybody_but_the_vteps() {
        let text = rules("netdev", "filter hook ingress device eth0 priority 0", 2);
        assert!(text.contains("198.18.0.1, 198.18.0.2"), "{text}");
        assert!(text.contains("udp dport 8472 ip saddr != @vteps"), "{text}");
    }

    #[test]
    fn the_counter_is_found_or_missed() {
        let text = r#"{"nftables":[{"metainfo":{}},{"counter":{"name":"flood","packets":7}}]}"#;
        assert_eq!(counter(text).unwrap(), 7);
        assert!(counter(r#"{"nftables":[]}"#).is_err());
    }
}
