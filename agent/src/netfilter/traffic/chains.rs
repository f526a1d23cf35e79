//! Flannel's rules as `iptables` reads and prints them (flannel 0.28.9,
//! `pkg/trafficmngr/iptables/iptables.go`).

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
    rules: Vec<String>,
}

impl Chain {
    /// What leaves the overlay goes out under the node's address.
    ///
    /// The first rule is for what kube-proxy masquerades itself: twice is a fault of some kernels.
    pub(super) fn masquerade(network: Subnet, own: Subnet, random_fully: bool) -> Self {
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
            ..Self::no_masquerade()
        }
    }

    /// The same chain without rules: what is to be removed.
    pub(super) fn no_masquerade() -> Self {
        Self {
            table: "nat",
            hook: "POSTROUTING",
            name: "FLANNEL-POSTRTG",
            comment: "flanneld masq",
            rules: Vec::new(),
        }
    }

    /// What comes from the overlay or goes there is forwarded.
    pub(super) fn forward(network: Subnet) -> Self {
        let rules = ["-s", "-d"].map(|end| {
            format!("{end} {network} -m comment --comment \"flanneld forward\" -j ACCEPT")
        });
        Self {
            rules: rules.into(),
            ..Self::no_forward()
        }
    }

    /// The same chain without rules: what is to be removed.
    pub(super) fn no_forward() -> Self {
        Self {
            table: "filter",
            hook: "FORWARD",
            name: "FLANNEL-FWD",
            comment: "flanneld forward",
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

    /// Our chain as `iptables -S` prints it.
    pub(super) fn printed(&self) -> String {
        format!("-N {}\n{}", self.name, self.rules())
    }

    /// What `iptables-restore --noflush` makes chain and jump of, in one step, whatever the chain
    /// holds: `jumps` of them are there already. Like flannel's, the jump is then the last rule.
    pub(super) fn payload(&self, jumps: usize) -> String {
        let (begin, jump) = (self.without_jumps(jumps), self.jump());
        format!("{begin}{jump}\n{}COMMIT\n", self.rules())
    }

    /// What takes chain and jumps away, in one step.
    pub(super) fn removal(&self, jumps: usize) -> String {
        self.without_jumps(jumps) + &format!("-X {}\nCOMMIT\n", self.name)
    }

    /// Naming a chain empties it, or makes it (`iptables-restore.c`, iptables 1.8.9).
    fn without_jumps(&self, jumps: usize) -> String {
        let delete = self.jump().replacen("-A ", "-D ", 1) + "\n";
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

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn masquerade_rules_are_flannel_s_to_the_letter() {
        let chain = Chain::masquerade(subnet("10.244.0.0/16"), subnet("10.244.1.0/24"), true);
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
        assert_eq!(chain.payload(0), golden);
        let without = Chain::masquerade(subnet("10.244.0.0/16"), subnet("10.244.1.0/24"), false);
        assert_eq!(
            without.payload(0),
            golden.replace(" --random-fully", ""),
            "and nothing else differs"
        );
    }

    #[test]
    fn forward_rules_are_flannel_s_to_the_letter() {
        let chain = Chain::forward(subnet("10.244.0.0/16"));
        let golden = r#"*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"#;
        assert_eq!(chain.payload(0), golden);
    }

    #[test]
    fn a_jump_that_is_there_is_moved_and_no_second_one_made() {
        let chain = Chain::forward(subnet("10.244.0.0/16"));
        let delete = "-D FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n";
        for jumps in 0..3 {
            let payload = chain.payload(jumps);
            assert_eq!(payload.matches(delete).count(), jumps);
            assert_eq!(payload.matches(&chain.jump()).count(), 1);
            let removal = Chain::no_forward().removal(jumps);
            assert_eq!(removal.matches(delete).count(), jumps);
            assert!(removal.ends_with("-X FLANNEL-FWD\nCOMMIT\n"), "{removal}");
        }
    }
}
