//! Flannel's rules as one nftables table, `ip flannel-ipv4`: name, chains, rules and comments are
//! those of flannel with `EnableNFTables` (flannel 0.28.9, `pkg/trafficmngr/nftables`), so that
//! either takes over the other's.

use twill_core::subnet::Subnet;

use super::chains::Networks;
use crate::program::ProgramError;
use crate::ruleset::{self, InForce, TableError};

const FAMILY: &str = "ip";
const TABLE: &str = "flannel-ipv4";
/// Flannel makes it always, and for IPv6 alone fills it.
const TABLE_V6: (&str, &str) = ("ip6", "flannel-ipv6");

/// What the table says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Table {
    /// The overlay.
    pub(super) networks: Networks,
    /// The node's own part of it, where what leaves the overlay is masqueraded.
    pub(super) masquerade: Option<Subnet>,
    /// Whether what comes from the overlay or goes there is accepted.
    pub(super) forward: bool,
    /// Whether source ports are to be picked at random.
    pub(super) random_fully: bool,
}

impl Table {
    /// Writes the table in one transaction, whatever was there under its name: flannel's own, as
    /// a rule. Where that is of a daemon of another network, ours is beside it.
    pub(super) async fn write(self) -> Result<InForce, TableError> {
        let name = if is_others(TABLE, self.networks).await? {
            own_name(self.networks.network)
        } else {
            TABLE.to_owned()
        };
        let name = name.as_str();
        let write = async |comments| {
            InForce::write_script(FAMILY, name, &self.script(name, comments)).await
        };
        match write(Comments::With).await {
            // Before nft 0.9.7 and Linux 5.10 tables and chains have none.
            Err(TableError::Write {
                source: ProgramError::Refused { .. },
                ..
            }) => write(Comments::Without).await,
            written => written,
        }
    }

    /// Removes flannel's tables, if they are of this network; whether there were any.
    pub(super) async fn remove_all(networks: Networks) -> Result<bool, TableError> {
        let mut found = false;
        let own = own_name(networks.network);
        let mut tables = vec![(FAMILY, own.as_str())];
        if !is_others(TABLE, networks).await? {
            tables.extend([(FAMILY, TABLE), TABLE_V6]);
        }
        for (family, name) in tables {
            if ruleset::is_there(family, name).await? {
                ruleset::remove(family, name).await?;
                found = true;
            }
        }
        Ok(found)
    }

    fn script(&self, name: &str, comments: Comments) -> String {
        let table = format!("{FAMILY} {name}");
        // Adding what exists changes nothing, and makes the deletion succeed where it does not.
        let mut text = format!("add table {table}\ndelete table {table}\ntable {table} {{\n");
        comments.add(&mut text, 1, &format!("rules for {TABLE}"));
        if let Some(own) = self.masquerade {
            let rules = self.masquerade_rules(own);
            chain(
                &mut text,
                comments,
                "postrtg",
                "chain to manage traffic masquerading by flannel",
                "type nat hook postrouting priority srcnat; policy accept;",
                &rules,
            );
        }
        if self.forward {
            let network = self.networks.network;
            let rules = ["saddr", "daddr"].map(|end| format!("ip {end} {network} accept"));
            chain(
                &mut text,
                comments,
                "forward",
                "chain to accept flannel traffic",
                "type filter hook forward priority filter; policy accept;",
                &rules,
            );
        }
        text.push_str("}\n");
        text
    }

    /// The fourth rule is flannel's own, and unlike the one of its iptables rules: no packet
    /// reaches the sixth.
    fn masquerade_rules(&self, own: Subnet) -> [String; 6] {
        let network = self.networks.network;
        let random = if self.random_fully {
            " fully-random"
        } else {
            ""
        };
        [
            "meta mark 0x00004000 return".to_owned(),
            format!("ip saddr {own} ip daddr {network} return"),
            format!("ip saddr {network} ip daddr {own} return"),
            format!("ip saddr != {own} ip daddr {network} return"),
            format!("ip saddr {network} ip daddr != 224.0.0.0/4 masquerade{random}"),
            format!("ip saddr != {network} ip daddr {network} masquerade{random}"),
        ]
    }
}

/// Whether a table is of a daemon of another network.
async fn is_others(name: &str, networks: Networks) -> Result<bool, TableError> {
    let prefixes = ruleset::prefixes(FAMILY, name).await?;
    Ok(prefixes.is_some_and(|prefixes| networks.are_not_in(prefixes.into_iter())))
}

/// What our table is called where flannel's name is taken.
fn own_name(network: Subnet) -> String {
    format!("{TABLE}-{}", network.to_string().replace('/', "-"))
}

/// Whether the kernel can pick source ports at random.
pub(super) async fn has_random_fully() -> Result<bool, TableError> {
    let script = "table ip flannel-random {\n\
                  \tchain test {\n\
                  \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
                  \t\tmasquerade fully-random\n\
                  \t}\n}\n";
    let asked = ruleset::would_take(script).await;
    asked.map_err(|source| TableError::Write {
        family: FAMILY,
        name: TABLE.to_owned(),
        source,
    })
}

#[derive(Clone, Copy)]
enum Comments {
    With,
    Without,
}

impl Comments {
    fn add(self, text: &mut String, depth: usize, comment: &str) {
        match self {
            Self::With => line(text, depth, &format!("comment \"{comment}\"")),
            Self::Without => {}
        }
    }
}

fn chain(
    text: &mut String,
    comments: Comments,
    name: &str,
    comment: &str,
    hook: &str,
    rules: &[String],
) {
    line(text, 1, &format!("chain {name} {{"));
    comments.add(text, 2, comment);
    line(text, 2, hook);
    for rule in rules {
        line(text, 2, rule);
    }
    line(text, 1, "}");
}

fn line(text: &mut String, depth: usize, words: &str) {
    text.push_str(&"\t".repeat(depth));
    text.push_str(words);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What flannel's own end-to-end tests want `nft list` to print (flannel 0.28.9, `e2e/`),
    /// empty lines aside.
    const GOLDEN: &str = "\
add table ip flannel-ipv4
delete table ip flannel-ipv4
table ip flannel-ipv4 {
\tcomment \"rules for flannel-ipv4\"
\tchain postrtg {
\t\tcomment \"chain to manage traffic masquerading by flannel\"
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tmeta mark 0x00004000 return
\t\tip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return
\t\tip saddr 10.244.0.0/16 ip daddr 10.244.1.0/24 return
\t\tip saddr != 10.244.1.0/24 ip daddr 10.244.0.0/16 return
\t\tip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
\t\tip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
\t}
\tchain forward {
\t\tcomment \"chain to accept flannel traffic\"
\t\ttype filter hook forward priority filter; policy accept;
\t\tip saddr 10.244.0.0/16 accept
\t\tip daddr 10.244.0.0/16 accept
\t}
}
";

    fn table(masquerade: bool, forward: bool, random_fully: bool) -> Table {
        Table {
            networks: Networks {
                network: "10.244.0.0/16".parse().unwrap(),
                former: None,
            },
            masquerade: masquerade.then(|| "10.244.1.0/24".parse().unwrap()),
            forward,
            random_fully,
        }
    }

    #[test]
    fn rules_are_flannel_s_to_the_letter() {
        assert_eq!(
            table(true, true, true).script(TABLE, Comments::With),
            GOLDEN
        );
        assert_eq!(
            table(true, true, false).script(TABLE, Comments::With),
            GOLDEN.replace(" fully-random", "")
        );
        let without: String = GOLDEN
            .split_inclusive('\n')
            .filter(|line| !line.contains("comment"))
            .collect();
        assert_eq!(
            table(true, true, true).script(TABLE, Comments::Without),
            without
        );
    }

    #[test]
    fn each_half_may_be_alone() {
        let start = GOLDEN.find("\tchain postrtg").unwrap();
        let middle = GOLDEN.find("\tchain forward").unwrap();
        let (head, tail) = (&GOLDEN[..start], &GOLDEN[middle..]);
        assert_eq!(
            table(false, true, true).script(TABLE, Comments::With),
            format!("{head}{tail}")
        );
        assert_eq!(
            table(true, false, true).script(TABLE, Comments::With),
            format!("{}}}\n", &GOLDEN[..middle])
        );
    }
}
