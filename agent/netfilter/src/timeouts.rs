//! The nftables table `inet twill.timeouts`: what gives TCP flows of the overlay, and no others, the time that
//! they need in conntrack while BPF carries them.
//!
//! Conntrack's picture of such a flow is frozen. If it froze with data that nobody had answered
//! (any server that speaks first), the flow would end after 300 s of silence, where it had days.
//! So a new TCP flow between the pods of two nodes gets a timeout policy in which unanswered data
//! makes no difference; everything else in it is as the settings have it.
//!
//! A flow keeps its policy for as long as the object lives. So the table is never replaced while
//! it is in use: chains are, objects are only added, and stay when Twill goes. Other settings are
//! another object.
//!
//! A flow that has a policy of somebody else by a rule of the `raw` table keeps it, and has no
//! permits: before conntrack sees the packet such a rule has put a template on it, which is all
//! that can be asked about it. The mark bit carries the answer.

use ipnetwork::Ipv4Network;
use twill_core::subnet::Subnet;

use super::conntrack::TcpTimes;
use super::keeper::Rules;
use super::program::ProgramError;
use super::ruleset::{self, InForce, TableError};
use super::table::outermost;

const FAMILY: &str = "inet";

/// Our chains: before conntrack, where templates are seen, and before it confirms a flow.
const CHAINS: [(&str, &str); 3] = [
    ("template-in", "hook prerouting priority -201"),
    ("template-out", "hook output priority -201"),
    // Conntrack confirms, and permits are asked for, one later.
    ("attach", "hook postrouting priority 2147483646"),
];

/// How many policies are kept, of settings that are no more. Whoever changes those over and over
/// gets rid of the flows' policies, and not of the kernel's memory.
const MOST_POLICIES: usize = 16;

/// What the table says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TimeoutTable {
    /// The name of the permits' table.
    pub permits: String,
    /// The whole overlay prefix.
    pub network: Subnet,
    /// The node's own part of it.
    pub own_subnet: Subnet,
    /// The vxlan device.
    pub device: String,
    /// The one bit of the packet mark that is ours.
    pub mark_bit: u32,
    /// Addresses whose flows never get a permit.
    pub exclude: Vec<Ipv4Network>,
    /// What a flow gets.
    pub times: TcpTimes,
}

impl Rules for TimeoutTable {
    type Proof = InForce;
    type Error = TableError;

    fn name(&self) -> String {
        format!("nftables table {FAMILY} {}", name(&self.permits))
    }

    async fn write(&self) -> Result<InForce, TableError> {
        let name = name(&self.permits);
        let policies = ruleset::count(FAMILY, &name, "ct timeout").await?;
        if policies >= MOST_POLICIES {
            ruleset::remove(FAMILY, &name).await?;
        }
        InForce::write_script(FAMILY, &name, &self.script()).await
    }

    async fn hold(proof: &InForce) -> Result<bool, TableError> {
        proof.is_so().await
    }
}

impl TimeoutTable {
    /// Whether `nft` and the kernel know timeout policies at all.
    pub async fn is_possible() -> Result<bool, ProgramError> {
        ruleset::would_take(
            "table inet twill.probe {\n\
             \tct timeout probe {\n\
             \t\tprotocol tcp\n\t\tl3proto ip\n\t\tpolicy = { established : 300, unack : 300 }\n\
             \t}\n\
             \tchain probe {\n\t\tmeta l4proto tcp ct timeout set \"probe\"\n\t}\n}\n",
        )
        .await
    }

    /// Has no further flow get a policy; those that have one keep it. Whether any would have got
    /// one.
    pub async fn detach(permits: &str) -> Result<bool, TableError> {
        let name = name(permits);
        if ruleset::count(FAMILY, &name, "chain").await? == 0 {
            return Ok(false);
        }
        ruleset::apply_script(FAMILY, &name, &without_chains(&name)).await?;
        Ok(true)
    }

    /// Removes the table; whether there was one. A flow that was fast and still lives may then end
    /// when it rests.
    pub async fn remove(permits: &str) -> Result<bool, TableError> {
        let name = name(permits);
        if !ruleset::is_there(FAMILY, &name).await? {
            return Ok(false);
        }
        ruleset::remove(FAMILY, &name).await?;
        Ok(true)
    }

    fn script(&self) -> String {
        let table = name(&self.permits);
        let Self {
            network,
            own_subnet: own,
            mark_bit: bit,
            device,
            ..
        } = self;
        let policy: Vec<_> = self.times.at_rest().collect();
        let joined = |separator: &str, one: &dyn Fn(&(&str, u64)) -> String| {
            policy.iter().map(one).collect::<Vec<_>>().join(separator)
        };
        let object = format!("tcp-{}", joined("-", &|(_, seconds)| seconds.to_string()));
        let values = joined(", ", &|(state, seconds)| format!("{state} : {seconds}"));
        let mut text = without_chains(&table);
        let mut say = |depth: usize, words: &str| {
            text.push_str(&"\t".repeat(depth));
            text.push_str(words);
            text.push('\n');
        };
        say(0, &format!("table {FAMILY} {table} {{"));
        say(1, &format!("ct timeout {object} {{"));
        say(2, "protocol tcp");
        say(2, "l3proto ip");
        say(2, &format!("policy = {{ {values} }}"));
        say(1, "}");
        for (chain, hook) in CHAINS {
            say(1, &format!("chain {chain} {{"));
            say(2, &format!("type filter {hook}; policy accept;"));
            if chain == "attach" {
                say(2, "meta l4proto != tcp return");
                say(2, "ct state != new return");
                say(2, &format!("meta mark & {bit:#x} != 0 return"));
                let excluded = outermost(&self.exclude);
                if !excluded.is_empty() {
                    let excluded: Vec<_> = excluded.iter().map(ToString::to_string).collect();
                    let excluded = excluded.join(", ");
                    say(2, &format!("ip saddr {{ {excluded} }} return"));
                    say(2, &format!("ip daddr {{ {excluded} }} return"));
                }
                let set = format!("ct timeout set \"{object}\"");
                for flows in [
                    format!("ip saddr {own} ip daddr {network} ip daddr != {own}"),
                    format!("ip daddr {own} ip saddr {network} ip saddr != {own}"),
                    // By a node that does not translate what comes from outside.
                    format!("ip daddr {own} iifname \"{device}\""),
                ] {
                    say(2, &format!("{flows} {set}"));
                }
            } else {
                // Without a template there is no state yet.
                let told = format!("ct state new meta mark set mark or {bit:#x}");
                for end in ["saddr", "daddr"] {
                    say(2, &format!("meta l4proto tcp ip {end} {network} {told}"));
                }
            }
            say(1, "}");
        }
        say(0, "}");
        text
    }
}

/// The table's name. No instance's permit table has a dot in its name.
fn name(permits: &str) -> String {
    format!("{permits}.timeouts")
}

/// Takes the chains away, whatever they are and whether or not they are there.
fn without_chains(table: &str) -> String {
    let mut text = format!("add table {FAMILY} {table}\n");
    for verb in ["add", "flush", "delete"] {
        for (chain, _) in CHAINS {
            for word in [verb, "chain", FAMILY, table] {
                text.push_str(word);
                text.push(' ');
            }
            text.push_str(chain);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conntrack;

    #[test]
    fn flows_of_the_overlay_get_a_policy_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let conntrack = Conntrack::with_all(directory.path(), 60);
        let mut table = TimeoutTable {
            permits: "twill".to_owned(),
            network: "10.244.0.0/16".parse().unwrap(),
            own_subnet: "10.244.1.0/24".parse().unwrap(),
            device: "flannel.1".to_owned(),
            mark_bit: 0x1000,
            exclude: vec!["10.244.9.0/24".parse().unwrap()],
            times: conntrack.tcp_times().unwrap(),
        };
        let script = table.script();
        let golden = "\
\tchain attach {
\t\ttype filter hook postrouting priority 2147483646; policy accept;
\t\tmeta l4proto != tcp return
\t\tct state != new return
\t\tmeta mark & 0x1000 != 0 return
\t\tip saddr { 10.244.9.0/24 } return
\t\tip daddr { 10.244.9.0/24 } return
\t\tip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 ip daddr != 10.244.1.0/24 \
ct timeout set \"tcp-60-60-60-60-60-60-60-60-60-60\"
\t\tip daddr 10.244.1.0/24 ip saddr 10.244.0.0/16 ip saddr != 10.244.1.0/24 \
ct timeout set \"tcp-60-60-60-60-60-60-60-60-60-60\"
\t\tip daddr 10.244.1.0/24 iifname \"flannel.1\" \
ct timeout set \"tcp-60-60-60-60-60-60-60-60-60-60\"
\t}
}
";
        assert!(script.ends_with(golden), "{script}");
        assert!(
            !script.contains("delete table") && !script.contains("delete ct timeout"),
            "flows have the policies that are there: {script}"
        );

        table.times = Conntrack::with_all(directory.path(), 90)
            .tcp_times()
            .unwrap();
        assert!(
            table.script().contains("ct timeout tcp-90-90"),
            "other settings, another policy"
        );
    }
}
