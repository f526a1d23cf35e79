//! Whether a FORWARD chain that our rules are not in drops what they accept.
//!
//! Every table of netfilter is asked: an ACCEPT in one does not save a packet from another's
//! DROP. Pure, and careful: what may accept packets of the overlay counts as accepting them.

use std::collections::BTreeSet;

use crate::subnet::Subnet;

/// The chain that packets of pods come through.
const FORWARD: &str = "FORWARD";

/// What of a node the rules are judged by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Overlay {
    /// The whole overlay.
    pub network: Subnet,
    /// Interfaces that its packets come from or go to.
    pub links: BTreeSet<String>,
}

/// A rule as `iptables -S` prints it.
struct Rule {
    chain: String,
    words: Vec<String>,
}

impl Overlay {
    /// Whether these rules of the table `filter`, as `iptables -S` prints them, drop every new
    /// packet of the overlay that is forwarded.
    pub fn is_dropped_by(&self, printed: &str) -> bool {
        let rules: Vec<Rule> = printed.lines().filter_map(Rule::read).collect();
        let mut lines = printed.lines().map(str::trim);
        let by_policy = lines.any(|line| line == "-P FORWARD DROP");
        let by_rule = || {
            let mut rules = rules.iter().filter(|rule| rule.chain == FORWARD);
            rules.any(|rule| matches!(rule.plain_target(), Some("DROP" | "REJECT")))
        };
        (by_policy || by_rule()) && !self.is_accepted(&rules, FORWARD, &mut BTreeSet::new())
    }

    /// Whether some rule of the chain, or of one that it leads to, may accept such a packet.
    fn is_accepted<'a>(
        &self,
        rules: &'a [Rule],
        chain: &'a str,
        seen: &mut BTreeSet<&'a str>,
    ) -> bool {
        if !seen.insert(chain) {
            return false;
        }
        let rules_of = rules.iter().filter(|rule| rule.chain == chain);
        for rule in rules_of.filter(|rule| self.may_match(rule)) {
            match rule.target() {
                Some("ACCEPT") => return true,
                // What comes after a DROP of everything is never asked.
                Some("DROP" | "REJECT") if rule.plain_target().is_some() => return false,
                Some(other) if self.is_accepted(rules, other, seen) => return true,
                None | Some(_) => {}
            }
        }
        false
    }

    /// Whether a new packet of the overlay, without a mark, may match.
    fn may_match(&self, rule: &Rule) -> bool {
        rule.options().all(|(negated, option, value)| match option {
            "-s" | "-d" if !negated => value
                .parse()
                .map_or(true, |prefix: Subnet| prefix.overlaps(self.network)),
            "-i" | "-o" if !negated => value.ends_with('+') || self.links.contains(value),
            "--ctstate" | "--state" if !negated => value.split(',').any(|state| state == "NEW"),
            "--mark" => negated,
            _ => true,
        })
    }
}

impl Rule {
    /// A line that adds to a chain; words in quotes are one.
    fn read(line: &str) -> Option<Self> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let (mut quoted, mut escaped) = (false, false);
        for letter in line.chars() {
            if escaped {
                word.get_or_insert_default().push(letter);
                escaped = false;
                continue;
            }
            match letter {
                '\\' if quoted => escaped = true,
                '"' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                _ if letter.is_whitespace() && !quoted => words.extend(word.take()),
                _ => word.get_or_insert_default().push(letter),
            }
        }
        words.extend(word);
        let mut words = words.into_iter();
        (words.next()? == "-A").then_some(())?;
        Some(Self {
            chain: words.next()?,
            words: words.collect(),
        })
    }

    /// Each option with the word after it, and whether a `!` is before it.
    fn options(&self) -> impl Iterator<Item = (bool, &str, &str)> {
        self.words.windows(2).enumerate().map(|(at, pair)| {
            let before = at.checked_sub(1).and_then(|before| self.words.get(before));
            let negated = before.is_some_and(|word| word == "!");
            match pair {
                [option, value] => (negated, option.as_str(), value.as_str()),
                _ => (negated, "", ""),
            }
        })
    }

    fn target(&self) -> Option<&str> {
        let mut options = self.options();
        options.find_map(|(_, option, value)| ["-j", "-g"].contains(&option).then_some(value))
    }

    /// The target of a rule that every packet matches.
    fn plain_target(&self) -> Option<&str> {
        let first = self.words.first()?;
        let plain = first == "-j" || (first == "-m" && self.words.get(1)? == "comment");
        let mut matches = self.words.iter().filter(|word| word.starts_with('-'));
        let known = ["-j", "-m", "--comment", "--reject-with"];
        let only = matches.all(|word| known.contains(&word.as_str()));
        (plain && only).then(|| self.target()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn overlay() -> Overlay {
        Overlay {
            network: "10.244.0.0/16".parse().unwrap(),
            links: ["cni0", "flannel.1"].map(str::to_owned).into(),
        }
    }

    /// As Docker leaves it, by the kind of iptables that is not ours.
    const DOCKER: &str = "\
-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
";

    #[test]
    fn a_chain_that_drops_and_accepts_nothing_of_the_overlay_is_found() {
        for (printed, dropped) in [
            ("", false),
            ("-P FORWARD ACCEPT\n", false),
            ("-P FORWARD DROP\n", true),
            ("-P INPUT DROP\n-P FORWARD ACCEPT\n", false),
            (DOCKER, true),
            ("-P FORWARD ACCEPT\n-A FORWARD -j DROP\n", true),
            (
                "-P FORWARD ACCEPT\n-A FORWARD -m comment --comment \"no more\" -j REJECT --reject-with icmp-port-unreachable\n",
                true,
            ),
            (
                "-P FORWARD ACCEPT\n-A FORWARD -s 192.0.2.0/24 -j DROP\n",
                false,
            ),
            // After it nothing is asked.
            (
                "-P FORWARD DROP\n-A FORWARD -j DROP\n-A FORWARD -j ACCEPT\n",
                true,
            ),
        ] {
            assert_eq!(overlay().is_dropped_by(printed), dropped, "{printed}");
        }
    }

    #[test]
    fn what_may_accept_the_overlay_is_believed_to() {
        for (rule, accepts) in [
            ("-A FORWARD -j ACCEPT", true),
            ("-A FORWARD -s 10.244.0.0/16 -j ACCEPT", true),
            ("-A FORWARD -d 10.0.0.0/8 -j ACCEPT", true),
            ("-A FORWARD -s 10.245.0.0/16 -j ACCEPT", false),
            ("-A FORWARD ! -s 192.0.2.0/24 -j ACCEPT", true),
            ("-A FORWARD -i cni0 -j ACCEPT", true),
            ("-A FORWARD -o flannel+ -j ACCEPT", true),
            ("-A FORWARD -i docker0 -j ACCEPT", false),
            ("-A FORWARD ! -i docker0 -j ACCEPT", true),
            ("-A FORWARD -p icmp -j ACCEPT", true),
            (
                "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                false,
            ),
            (
                "-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
                true,
            ),
            // kube-proxy's: pods' packets have no such mark.
            ("-A FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT", false),
            (
                "-A FORWARD -m comment --comment \"flanneld -j forward\" -j FLANNEL-FWD\n-A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT",
                true,
            ),
            ("-A FORWARD -j ONE\n-A ONE -j TWO\n-A TWO -g ONE", false),
            ("-A INPUT -j ACCEPT", false),
        ] {
            let printed = format!("-P FORWARD DROP\n{rule}\n");
            assert_eq!(overlay().is_dropped_by(&printed), !accepts, "{rule}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(text in "(-P FORWARD DROP\n)?(-A FORWARD [-\"!\\\\a-z0-9 ]{0,40}\n){0,4}\\PC*") {
            overlay().is_dropped_by(&text);
        }
    }
}
