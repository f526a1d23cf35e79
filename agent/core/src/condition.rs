//! Conditions: states of a node that somebody has to act on, though its packets may still flow.
//!
//! Status file, readiness, metric and log all tell what is here. Pure: times are handed in.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::peers::Objection;
use crate::state::Conflict;
use crate::subnet::Subnet;

/// How long a condition may last before the node counts as not ready, where it has time.
const GRACE: Duration = Duration::from_mins(1);
/// A lease that is not renewed is told long before its end: after this part of what is left.
const PART_OF_TERM: u32 = 4;

/// Something that is not as it should be, and that Twill cannot mend by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Condition {
    /// The own lease stands, and cannot be renewed.
    LeaseNotRenewed(NotRenewed),
    /// The store does not have the own lease any more, and it cannot be taken again.
    LeaseGone(NotRenewed),
    /// Another lease contradicts the own one.
    LeaseContradicted(Conflict),
    /// A chain that the own rules are not in drops what they accept.
    ForwardDropped(Overruled),
}

/// Which condition it is, for programs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ConditionKind {
    /// See [`Condition::LeaseNotRenewed`].
    LeaseNotRenewed,
    /// See [`Condition::LeaseGone`].
    LeaseGone,
    /// See [`Condition::LeaseContradicted`].
    LeaseContradicted,
    /// See [`Condition::ForwardDropped`].
    ForwardDropped,
}

/// How writing the own lease failed last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotRenewed {
    /// The kind of failure.
    pub cause: StoreFailure,
    /// The store's words.
    pub said: String,
    /// How long the lease lasted when it failed first, if anybody knows.
    pub left: Option<Duration>,
}

/// Why a store does not do what is asked of it, by who can mend it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum StoreFailure {
    /// It is not reached, or does not answer.
    Unreachable,
    /// It does not know this node's user, certificate or password.
    Unauthenticated,
    /// It knows the user, who may not do that.
    Denied,
    /// Kubernetes does not know this node's credentials, or this node not Kubernetes'.
    Unidentified,
    /// Kubernetes knows the user, who may not do that.
    Forbidden,
    /// It has no room for a write.
    Full,
    /// Anything else: its words say what.
    Refused,
}

/// Rules that cannot matter, because others drop what they accept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Overruled {
    /// Whose chain drops, as `iptables-legacy`.
    pub by: &'static str,
    /// By which tool the own rules are.
    pub ours: &'static str,
}

impl ConditionKind {
    /// All of them, in the order of the metric.
    pub const ALL: [Self; 4] = [
        Self::LeaseNotRenewed,
        Self::LeaseGone,
        Self::LeaseContradicted,
        Self::ForwardDropped,
    ];

    /// Its name in the status file and as a label of the metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::LeaseNotRenewed => "lease_not_renewed",
            Self::LeaseGone => "lease_gone",
            Self::LeaseContradicted => "lease_contradicted",
            Self::ForwardDropped => "forward_dropped",
        }
    }
}

impl StoreFailure {
    /// What to do about it.
    fn remedy(self) -> &'static str {
        match self {
            Self::Unreachable => "have the lease store run, and this node reach it",
            Self::Unauthenticated => {
                "give twilld the user and password that etcd has now (--etcd-username, \
                 --etcd-password, or a certificate that etcd takes) and start it again"
            }
            Self::Denied => {
                "grant the user's role readwrite on all keys that begin with --etcd-prefix \
                 (etcdctl role grant-permission)"
            }
            Self::Unidentified => {
                "give twilld credentials that the API server takes (the pod's service account, or \
                 a --kubeconfig-file whose user has no other certificate or token now); files are \
                 read again, a restart is not needed"
            }
            Self::Forbidden => {
                "grant the user get, list and watch on nodes and patch on nodes/status (ClusterRole \
                 flannel; kubectl auth can-i)"
            }
            Self::Full => {
                "make room in the lease store (etcd: compact it, etcdctl defrag, etcdctl alarm \
                 disarm; lease server: its disk)"
            }
            Self::Refused => "do what the store's words ask for",
        }
    }
}

impl Condition {
    /// Which it is.
    pub fn kind(&self) -> ConditionKind {
        match self {
            Self::LeaseNotRenewed(_) => ConditionKind::LeaseNotRenewed,
            Self::LeaseGone(_) => ConditionKind::LeaseGone,
            Self::LeaseContradicted(_) => ConditionKind::LeaseContradicted,
            Self::ForwardDropped(_) => ConditionKind::ForwardDropped,
        }
    }

    /// How long it may last before the node is not ready.
    fn grace(&self) -> Duration {
        match self {
            Self::LeaseGone(_) => Duration::ZERO,
            Self::LeaseNotRenewed(NotRenewed { left, .. }) => {
                left.map_or(GRACE, |left| GRACE.min(left / PART_OF_TERM))
            }
            Self::LeaseContradicted(_) | Self::ForwardDropped(_) => GRACE,
        }
    }

    /// What tells it from others of its kind, and is news when it changes.
    fn topic(&self) -> Topic {
        match self {
            Self::LeaseNotRenewed(NotRenewed { cause, .. })
            | Self::LeaseGone(NotRenewed { cause, .. }) => Topic::Store(*cause),
            Self::LeaseContradicted(conflict) => Topic::Subnet(conflict.subnet),
            Self::ForwardDropped(_) => Topic::Node,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaseNotRenewed(NotRenewed { cause, said, .. }) => {
                write!(f, "the lease is not renewed: {said}; {}", cause.remedy())
            }
            Self::LeaseGone(NotRenewed { cause, said, .. }) => write!(
                f,
                "the lease is gone, so other nodes send this one nothing, and it cannot be taken \
                 again: {said}; {}",
                cause.remedy()
            ),
            Self::LeaseContradicted(Conflict {
                subnet,
                peer,
                objection,
            }) => {
                let underlay = peer.underlay();
                write!(f, "lease of {subnet} at {underlay}: {objection}; ")?;
                f.write_str(match objection {
                    Objection::OwnMac(_) => {
                        "nothing passes between the two: remove the vxlan device of one of them \
                         and start its daemon again (clones of one machine need an \
                         /etc/machine-id each), or delete the lease if it is an old one of this \
                         node"
                    }
                    Objection::OwnLease(_) => {
                        "another daemon with this node's underlay address holds the same subnet: \
                         give each node a --public-ip of its own, or stop one of the two daemons"
                    }
                    Objection::OverlapsOwn(_)
                    | Objection::OwnUnderlay(_)
                    | Objection::Overlaps(_)
                    | Objection::UnderlayTaken(_)
                    | Objection::MacTaken(_) => {
                        "give each node an address and a subnet of its own, or delete the lease \
                         if nobody holds it"
                    }
                })
            }
            Self::ForwardDropped(Overruled { by, ours }) => write!(
                f,
                "{by} has a FORWARD chain that drops and accepts nothing of the overlay, beside \
                 the rules of {ours}, which cannot matter then: pods are cut off; use one of the \
                 two, and remove what the other left ({by} -P FORWARD ACCEPT)"
            ),
        }
    }
}

/// What a condition is about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Topic {
    Node,
    Store(StoreFailure),
    Subnet(Subnet),
}

/// What there is to say after a look.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct News {
    /// Conditions that were not there before.
    pub begun: Vec<Condition>,
    /// Kinds of which there is none any more.
    pub over: Vec<ConditionKind>,
}

/// The conditions of a node, and since when they are.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    present: BTreeMap<(ConditionKind, Topic), Condition>,
    /// By a clock that only goes forward.
    since: BTreeMap<ConditionKind, Duration>,
}

impl Conditions {
    /// These and no others are the case at `now`, which is a time by any clock that only goes
    /// forward. What lasts is no news, whatever words it comes with.
    pub fn set(&mut self, found: impl IntoIterator<Item = Condition>, now: Duration) -> News {
        let found = found.into_iter();
        let found = found.map(|condition| ((condition.kind(), condition.topic()), condition));
        let before = std::mem::replace(&mut self.present, found.collect());
        let mut news = News::default();
        for (key, condition) in &self.present {
            self.since.entry(key.0).or_insert(now);
            if !before.contains_key(key) {
                news.begun.push(condition.clone());
            }
        }
        let present = &self.present;
        self.since.retain(|&kind, _| {
            let lasts = present.keys().any(|(other, _)| *other == kind);
            if !lasts {
                news.over.push(kind);
            }
            lasts
        });
        news
    }

    /// All that are the case, and whether each has lasted so long that the node is not ready.
    pub fn iter(&self, now: Duration) -> impl Iterator<Item = (&Condition, bool)> {
        self.present.values().map(move |condition| {
            let since = self.since.get(&condition.kind()).copied();
            let lasted = now.saturating_sub(since.unwrap_or(now));
            (condition, lasted >= condition.grace())
        })
    }

    /// Whether the node is not ready because of one of them.
    pub fn bar_readiness(&self, now: Duration) -> bool {
        self.iter(now).any(|(_, bars)| bars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Peer;
    use crate::vtep::{MacAddr, RemoteVtep};

    const SECOND: Duration = Duration::from_secs(1);

    fn not_renewed(cause: StoreFailure, left: Option<u64>) -> NotRenewed {
        NotRenewed {
            cause,
            said: format!("{cause:?}"),
            left: left.map(Duration::from_secs),
        }
    }

    fn contradicted(subnet: &str, objection: Objection) -> Condition {
        Condition::LeaseContradicted(Conflict {
            subnet: subnet.parse().unwrap(),
            peer: Peer::Vtep(RemoteVtep {
                underlay: [192, 0, 2, 7].into(),
                mac: MacAddr([2, 0, 0, 0, 0, 7]),
            }),
            objection,
        })
    }

    #[test]
    fn a_lease_that_is_not_renewed_bars_readiness_long_before_its_end() {
        for (left, barred_after) in [(None, 60), (Some(3600), 60), (Some(40), 10)] {
            let mut conditions = Conditions::default();
            let condition = Condition::LeaseNotRenewed(not_renewed(StoreFailure::Full, left));
            let begin = 100 * SECOND;
            conditions.set([condition.clone()], begin);
            for after in [barred_after - 1, barred_after] {
                let now = begin + after * SECOND;
                assert!(conditions.set([condition.clone()], now).begun.is_empty());
                assert_eq!(
                    conditions.bar_readiness(now),
                    after == barred_after,
                    "{left:?} {after}"
                );
            }
            conditions.set([], begin);
            assert!(!conditions.bar_readiness(begin + 3600 * SECOND));
        }
    }

    #[test]
    fn a_lease_that_is_gone_bars_it_at_once() {
        let mut conditions = Conditions::default();
        let gone = not_renewed(StoreFailure::Unauthenticated, Some(86_400));
        conditions.set([Condition::LeaseGone(gone)], SECOND);
        assert!(conditions.bar_readiness(SECOND));
    }

    #[test]
    fn what_lasts_is_told_once_and_what_changes_again() {
        let mut conditions = Conditions::default();
        let full = Condition::LeaseNotRenewed(not_renewed(StoreFailure::Full, None));
        let away = Condition::LeaseNotRenewed(not_renewed(StoreFailure::Unreachable, None));
        let news = conditions.set([full.clone()], SECOND);
        assert_eq!(news.begun.len(), 1);
        assert_eq!(conditions.set([full], 2 * SECOND), News::default());
        let news = conditions.set([away.clone()], 3 * SECOND);
        assert_eq!(
            (news.begun.as_slice(), news.over.len()),
            ([away.clone()].as_slice(), 0)
        );
        // It has lasted since the first.
        assert!(conditions.bar_readiness(61 * SECOND));
        let news = conditions.set([], 62 * SECOND);
        assert_eq!(news.over, [ConditionKind::LeaseNotRenewed]);
    }

    #[test]
    fn each_claim_is_told() {
        let mut conditions = Conditions::default();
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        let one = contradicted("10.244.1.0/24", Objection::OwnMac(mac));
        let two = contradicted("10.244.2.0/24", Objection::OwnLease(mac));
        conditions.set([one.clone()], SECOND);
        let news = conditions.set([one.clone(), two.clone()], SECOND);
        assert_eq!(news.begun, std::slice::from_ref(&two));
        assert_eq!(conditions.set([two], SECOND), News::default());
    }

    #[test]
    fn each_is_one_sentence_with_a_remedy() {
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        let failure = not_renewed(StoreFailure::Denied, None);
        for (condition, words) in [
            (
                Condition::LeaseNotRenewed(failure.clone()),
                ["not renewed: Denied; ", "grant-permission"],
            ),
            (
                Condition::LeaseGone(failure),
                ["the lease is gone", "grant-permission"],
            ),
            (
                Condition::LeaseNotRenewed(not_renewed(StoreFailure::Unidentified, None)),
                ["not renewed", "--kubeconfig-file"],
            ),
            (
                Condition::LeaseNotRenewed(not_renewed(StoreFailure::Forbidden, None)),
                ["not renewed", "patch on nodes/status"],
            ),
            (
                contradicted("10.244.1.0/24", Objection::OwnMac(mac)),
                ["10.244.1.0/24", "machine-id"],
            ),
            (
                contradicted("10.244.1.0/24", Objection::OwnLease(mac)),
                ["own lease", "--public-ip"],
            ),
            (
                Condition::ForwardDropped(Overruled {
                    by: "iptables-legacy",
                    ours: "iptables-nft",
                }),
                ["iptables-legacy", "iptables-legacy -P FORWARD ACCEPT"],
            ),
        ] {
            let text = condition.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
        }
    }
}
