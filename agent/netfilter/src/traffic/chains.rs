//! Flannel's rules as `iptables` reads and prints them (flannel 0.28.9,
//! `pkg/trafficmngr/iptables/iptables.go`).
//!
//! Daemons of several networks share the chains, as those of flannel do: each has its own rules
//! there, and leaves those that speak of another network.

use twill_core::subnet::Subnet;

/// A chain of ours in one table, and the rule of a kernel's chain that jumps there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Chain {
    /// The table.
    pub(super) table: &'static str,
    /// The kernel's chain.
    pub(super) hook: &'static str,
    /// Our chain.
    pub(super) name: &'static str,
    comment: &'static str,
    networks: Networks,
    rules: Vec<String>,
}

/// Whose rules are ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Networks {
    /// The whole overlay prefix.
    pub(super) network: Subnet,
    /// What it was before, where it was another one.
    pub(super) former: Option<Subnet>,
}

impl Networks {
    /// Whether a rule with these addresses is of a daemon of another network.
    pub(super) fn are_not_in(self, addresses: impl Iterator<Item = Subnet>) -> bool {
        let mut addresses = addresses
            .filter(|address| !address.network().is_multicast())
            .peekable();
        let is_ours = |address: &Subnet| {
            let ours = [Some(self.network), self.former];
            ours.into_iter()
                .flatten()
                .any(|ours| ours.overlaps(*address))
        };
        addresses.peek().is_some() && !addresses.any(|address| is_ours(&address))
    }
}

/// A chain as it was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Found {
    /// How many rules of the kernel's chain jump to ours.
    pub(super) jumps: Jumps,
    /// What is in our chain but rules of other networks, as it is printed; nothing, where there
    /// is no such chain.
    pub(super) ours: Option<String>,
    /// Rules of daemons of other networks.
    pub(super) others: Vec<String>,
}

/// The rules of the kernel's chain that jump to ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Jumps {
    /// So many are there.
    Listed(usize),
    /// The chain has rules that `iptables` cannot read: it can add a rule there, and take none
    /// away. Whether there is a jump.
    Hidden(bool),
}

impl Jumps {
    /// Whether that is as it should be.
    pub(super) fn are_good(self) -> bool {
        matches!(self, Self::Listed(1) | Self::Hidden(true))
    }

    /// Whether there are any.
    pub(super) fn are_there(self) -> bool {
        !matches!(self, Self::Listed(0) | Self::Hidden(false))
    }
}

impl Chain {
    /// What leaves the overlay goes out under the node's address.
    ///
    /// The first rule is for what kube-proxy masquerades itself: twice is a fault of some kernels.
    pub(super) fn masquerade(networks: Networks, own: Subnet, random_fully: bool) -> Self {
        let network = networks.network;
        let random = if random_fully { " --random-fully" } else { "" };
        let rule = |matches: String, target: &str| {
            format!("{matches} -m comment --comment \"flanneld masq\" -j {target}")
        };
        let masquerade = format!("MASQUERADE{random}");
        let rules = vec![
            rule("-m mark --mark 0x4000/0x4000".to_owned(), "RETURN"),
            rule(format!("-s {own} -d {network}"), "RETURN"),
            rule(format!("-s {network} -d {own}"), "RETURN"),
            rule(format!("! -s {network} -d {own}"), "RETURN"),
            rule(format!("-s {network} ! -d 224.0.0.0/4"), &masquerade),
            rule(format!("! -s {network} -d {network}"), &masquerade),
        ];
        Self {
            rules,
            ..Self::no_masquerade(networks)
        }
    }

    /// The same chain without rules: what is to be removed.
    pub(super) fn no_masquerade(networks: Networks) -> Self {
        Self {
            table: "nat",
            hook: "POSTROUTING",
            name: "FLANNEL-POSTRTG",
            comment: "flanneld masq",
            networks,
            rules: Vec::new(),
        }
    }

    /// What comes from the overlay or goes there is forwarded.
    pub(super) fn forward(networks: Networks) -> Self {
        let network = networks.network;
        let rules = ["-s", "-d"].map(|end| {
            format!("{end} {network} -m comment --comment \"flanneld forward\" -j ACCEPT")
        });
        Self {
            rules: rules.into(),
            ..Self::no_forward(networks)
        }
    }

    /// The same chain without rules: what is to be removed.
    pub(super) fn no_forward(networks: Networks) -> Self {
        Self {
            table: "filter",
            hook: "FORWARD",
            name: "FLANNEL-FWD",
            comment: "flanneld forward",
            networks,
            rules: Vec::new(),
        }
    }

    /// The rule that jumps to our chain, as `iptables -S` prints it.
    pub(super) fn jump(&self) -> String {
        let Self {
            hook,
            name,
            comment,
            ..
        } = self;
        format!("-A {hook} -m comment --comment \"{comment}\" -j {name}")
    }

    /// Our chain as `iptables -S` prints it, where no other network has rules there.
    pub(super) fn printed(&self) -> String {
        format!("-N {}\n{}", self.name, self.rules())
    }

    /// Parts what `iptables -S` printed of our chain: what is ours, or nobody's who may have it
    /// there, and rules of daemons of other networks.
    pub(super) fn part(&self, printed: &str) -> (String, Vec<String>) {
        let (mut ours, mut others) = (String::new(), Vec::new());
        for line in printed.lines() {
            if self.is_of_another_network(line) {
                others.push(line.to_owned());
            } else {
                ours.push_str(line);
                ours.push('\n');
            }
        }
        (ours, others)
    }

    fn is_of_another_network(&self, line: &str) -> bool {
        let comment = format!(" --comment \"{}\" ", self.comment);
        if !line.starts_with(&format!("-A {} ", self.name)) || !line.contains(&comment) {
            return false;
        }
        let mut words = line.split_whitespace();
        let mut addresses = Vec::new();
        while let Some(word) = words.next() {
            if word == "-s" || word == "-d" {
                addresses.extend(words.next().and_then(|word| word.parse::<Subnet>().ok()));
            }
        }
        self.networks.are_not_in(addresses.into_iter())
    }

    /// What `iptables-restore --noflush` makes chain and jump of, in one step, whatever was
    /// found. Like flannel's, the jump is then the last rule, unless its chain cannot be read.
    ///
    /// Ours come first: of the rule that both have, about what kube-proxy masquerades, either's
    /// first is before all others.
    pub(super) fn payload(&self, found: &Found) -> String {
        let (begin, rules) = (self.without_jumps(found.jumps), self.rules());
        let jump = match found.jumps {
            Jumps::Hidden(true) => String::new(),
            Jumps::Listed(_) | Jumps::Hidden(false) => self.jump() + "\n",
        };
        let others = lines(&found.others);
        format!("{begin}{jump}{rules}{others}COMMIT\n")
    }

    /// What takes our rules away in one step, and chain and jumps, where nobody needs them.
    pub(super) fn removal(&self, found: &Found) -> String {
        if !found.others.is_empty() {
            let begin = self.without_jumps(Jumps::Listed(0));
            return format!("{begin}{}COMMIT\n", lines(&found.others));
        }
        let begin = self.without_jumps(found.jumps);
        match found.jumps {
            // What a jump leads to stays, empty.
            Jumps::Hidden(true) => format!("{begin}COMMIT\n"),
            Jumps::Listed(_) | Jumps::Hidden(false) => format!("{begin}-X {}\nCOMMIT\n", self.name),
        }
    }

    /// Naming a chain empties it, or makes it (`iptables-restore.c`, iptables 1.8.9).
    fn without_jumps(&self, jumps: Jumps) -> String {
        let delete = self.jump().replacen("-A ", "-D ", 1) + "\n";
        let jumps = match jumps {
            Jumps::Listed(jumps) => jumps,
            Jumps::Hidden(_) => 0,
        };
        format!(
            "*{}\n:{} - [0:0]\n{}",
            self.table,
            self.name,
            delete.repeat(jumps)
        )
    }

    fn rules(&self) -> String {
        let rule = |rule: &String| format!("-A {} {rule}\n", self.name);
        self.rules.iter().map(rule).collect::<Vec<_>>().concat()
    }
}

fn lines(rules: &[String]) -> String {
    rules
        .iter()
        .flat_map(|rule| [rule.as_str(), "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> Networks {
        Networks {
            network: subnet("10.244.0.0/16"),
            former: Some(subnet("10.7.0.0/16")),
        }
    }

    fn found(jumps: usize) -> Found {
        Found {
            jumps: Jumps::Listed(jumps),
            ours: None,
            others: Vec::new(),
        }
    }

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn masquerade_rules_are_flannel_s_to_the_letter() {
        let chain = Chain::masquerade(networks(), subnet("10.244.1.0/24"), true);
        let golden = r#"*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"#;
        assert_eq!(chain.payload(&found(0)), golden);
        let without = Chain::masquerade(networks(), subnet("10.244.1.0/24"), false);
        assert_eq!(
            without.payload(&found(0)),
            golden.replace(" --random-fully", ""),
            "and nothing else differs"
        );
    }

    #[test]
    fn forward_rules_are_flannel_s_to_the_letter() {
        let chain = Chain::forward(networks());
        let golden = r#"*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"#;
        assert_eq!(chain.payload(&found(0)), golden);
    }

    #[test]
    fn a_jump_that_is_there_is_moved_and_no_second_one_made() {
        let chain = Chain::forward(networks());
        let delete = "-D FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n";
        for jumps in 0..3 {
            let payload = chain.payload(&found(jumps));
            assert_eq!(payload.matches(delete).count(), jumps);
            assert_eq!(payload.matches(&chain.jump()).count(), 1);
            let removal = Chain::no_forward(networks()).removal(&found(jumps));
            assert_eq!(removal.matches(delete).count(), jumps);
            assert!(removal.ends_with("-X FLANNEL-FWD\nCOMMIT\n"), "{removal}");
        }
    }

    #[test]
    fn rules_of_another_network_stay_and_no_others() {
        let chain = Chain::forward(networks());
        let other = Chain::forward(Networks {
            network: subnet("10.99.0.0/16"),
            former: None,
        });
        let others: Vec<_> = other.rules().lines().map(str::to_owned).collect();
        let junk = "-A FLANNEL-FWD -j RETURN\n\
                    -A FLANNEL-FWD -s 10.98.0.0/16 -j ACCEPT\n\
                    -A FLANNEL-FWD -s 10.7.3.0/24 -m comment --comment \"flanneld forward\" -j ACCEPT\n";
        let printed = format!("{}{}{junk}", chain.printed(), other.rules());
        let (ours, found) = chain.part(&printed);
        assert_eq!(ours, chain.printed() + junk);
        assert_eq!(found, others);

        let found = Found {
            jumps: Jumps::Listed(1),
            ours: Some(ours),
            others,
        };
        let payload = chain.payload(&found);
        let (rules, others) = (chain.rules(), other.rules());
        assert!(
            payload.ends_with(&format!("{rules}{others}COMMIT\n")),
            "{payload}"
        );
        assert_eq!(
            Chain::no_forward(networks()).removal(&found),
            format!("*filter\n:FLANNEL-FWD - [0:0]\n{others}COMMIT\n"),
            "and the jump"
        );
    }

    #[test]
    fn masquerade_rules_of_two_networks_share_what_is_nobodys() {
        let other = Networks {
            network: subnet("10.99.0.0/16"),
            former: None,
        };
        let chain = Chain::masquerade(networks(), subnet("10.244.1.0/24"), true);
        let other = Chain::masquerade(other, subnet("10.99.1.0/24"), true);
        let (_, others) = chain.part(&other.printed());
        assert_eq!(others.len(), 5, "all but the one about kube-proxy's mark");
        let both = format!("{}{}", chain.printed(), lines(&others));
        assert_eq!(chain.part(&both).0, chain.printed());
        let (_, first) = other.part(&chain.printed());
        let both = format!("{}{}", other.printed(), lines(&first));
        assert_eq!(chain.part(&both).0, chain.printed(), "whoever wrote last");
    }

    #[test]
    fn a_jump_among_rules_that_cannot_be_read_is_added_and_never_taken_away() {
        let chain = Chain::forward(networks());
        for (is_there, added) in [(false, 1), (true, 0)] {
            let found = Found {
                jumps: Jumps::Hidden(is_there),
                ..found(0)
            };
            let payload = chain.payload(&found);
            assert_eq!(payload.matches(&chain.jump()).count(), added);
            assert!(!payload.contains("-D "), "{payload}");
            let removal = chain.removal(&found);
            assert_eq!(removal.contains("-X "), !is_there, "{removal}");
        }
    }
}
