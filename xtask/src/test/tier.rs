//! The tiers. A new one is a variant, and a line in each table below.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

use super::room::{Needs, Share};
use crate::kernels::Extent;

/// A tier, cheapest first: the order in which they run.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Tier {
    /// Unit and property tests, beside the code; needs nothing
    Unit,
    /// The chart beside those of flannel, rendered
    Chart,
    /// The image, run with the rights of the manifests; needs root
    Image,
    /// Each BPF program run on single packets; needs root
    ProgRun,
    /// Real packets between network namespaces; needs root
    Netns,
    /// Fast flows under attack, with kube-proxy's rules; needs root
    Permits,
    /// Forged VXLAN from a host that is no node; needs root
    Guard,
    /// Several agents, real servers and real CNI plugins; needs root
    E2e,
    /// Restarts, crashes, upgrades and accidents under load; needs root
    Continuity,
    /// Hosts with flanneld's flags and a real etcd; needs root
    Flanneld,
    /// A real Kubernetes on this machine; needs root
    Kubernetes,
    /// The bench sees what is slow, and leaves nothing behind; needs root
    Bench,
    /// The part of `kernels` that takes minutes: every program loaded, and most run; needs root
    KernelsBrief,
    /// Every program and the tiers above on older and newer kernels, in QEMU; needs root
    Kernels,
}

/// What a tier runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Runs {
    /// The tests beside the code of the whole workspace.
    Workspace,
    /// A test target of a package.
    Target(Target),
    /// Guests with other kernels.
    Kernels(Extent),
}

/// A test target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Target {
    /// Its name.
    pub(super) name: &'static str,
    /// Its package.
    pub(super) package: &'static str,
    /// The package's folder in the workspace.
    pub(super) folder: &'static str,
}

/// A test target of `tests/tiers`.
const fn tiers(name: &'static str) -> Runs {
    Runs::Target(Target {
        name,
        package: "twill-tests",
        folder: "tests/tiers",
    })
}

/// Tests, by how their names begin, that fill the machine or measure it: nothing runs beside them.
const ALONE: [(Tier, &str); 4] = [
    (Tier::Guard, "flood::"),
    (Tier::E2e, "scale::"),
    (Tier::E2e, "lease_server::scale::"),
    (Tier::Flanneld, "scale::"),
];

/// Tests of the tier `kubernetes`, by how their names begin, that bring up a whole cluster; the
/// others have a control plane alone.
const CLUSTER: &str = "cluster::";

impl Tier {
    pub(super) fn runs(self) -> Runs {
        match self {
            Self::Unit => Runs::Workspace,
            Self::Chart => tiers("chart"),
            Self::Image => tiers("image"),
            Self::ProgRun => tiers("prog_run"),
            Self::Netns => tiers("netns"),
            Self::Permits => tiers("permits"),
            Self::Guard => tiers("guard"),
            Self::E2e => tiers("e2e"),
            Self::Continuity => tiers("continuity"),
            Self::Flanneld => tiers("flanneld"),
            Self::Kubernetes => tiers("kubernetes"),
            Self::Bench => Runs::Target(Target {
                name: "harness",
                package: "twill-bench",
                folder: "bench",
            }),
            Self::KernelsBrief => Runs::Kernels(Extent::Brief),
            Self::Kernels => Runs::Kernels(Extent::Whole),
        }
    }

    /// What it proves, for the line above its output.
    pub(super) fn proves(self) -> &'static str {
        match self {
            Self::Unit => "logic, parsing, planning, configuration",
            Self::Chart => "the chart renders what flannel's does, and the plain manifest is its",
            Self::Image => "every name starts, with a manifest's rights and a read-only root",
            Self::ProgRun => "every program, verdict, byte and counter",
            Self::Netns => "real packets, against the kernel's own vxlan device",
            Self::Permits => "fast flows live and end as on the stock kernel path",
            Self::Guard => "strangers reach no pod, peers and new nodes always do",
            Self::E2e => "whole nodes with real servers and CNI plugins",
            Self::Continuity => "no packet lost over restart, crash, upgrade and accident",
            Self::Flanneld => "a drop-in for flanneld on hosts with etcd",
            Self::Kubernetes => "a cluster's network, on a real Kubernetes",
            Self::Bench => "the bench tells slow from fast, and cleans up",
            Self::KernelsBrief => "every program on every kernel, agents on this one alone",
            Self::Kernels => "every program and the tiers above, on every kernel",
        }
    }

    /// Whether some of its tests run a real flanneld.
    pub(super) fn beside_flanneld(self) -> bool {
        matches!(
            self,
            Self::E2e | Self::Continuity | Self::Flanneld | Self::Kubernetes
        )
    }

    /// Whether it boots other kernels.
    pub(super) fn boots_kernels(self) -> bool {
        matches!(self.runs(), Runs::Kernels(_))
    }

    /// Whether its tests hold servers and networks to seconds of real time.
    pub(super) fn takes_real_time(self) -> bool {
        self.privileged() && !matches!(self, Self::Chart | Self::ProgRun) && !self.boots_kernels()
    }

    /// What its test of this name takes of the machine.
    pub(super) fn needs(self, test: &str) -> Needs {
        let alone = ALONE
            .iter()
            .any(|&(tier, begin)| tier == self && test.starts_with(begin));
        if alone {
            return Needs::ALONE;
        }
        match self {
            // A load of its own, of which nothing may be lost: two would measure each other.
            Self::Continuity => Needs {
                share: Share::Units(3),
                turn: Some("load"),
            },
            // A whole cluster, with processes for a machine of its own.
            Self::Kubernetes if test.starts_with(CLUSTER) => Needs {
                share: Share::Units(4),
                turn: Some("cluster"),
            },
            Self::Permits | Self::Guard | Self::E2e | Self::ProgRun | Self::Kubernetes => {
                Needs::units(2)
            }
            Self::Bench => Needs::ALONE,
            Self::Unit
            | Self::Chart
            | Self::Image
            | Self::Netns
            | Self::Flanneld
            | Self::KernelsBrief
            | Self::Kernels => Needs::units(1),
        }
    }

    /// How long one of its tests may take, on a machine that others share. Several times what the
    /// longest takes: past it the test hangs.
    pub(super) fn deadline(self, long: bool) -> Duration {
        if long {
            return Duration::from_mins(30);
        }
        Duration::from_mins(match self {
            Self::Continuity | Self::Kubernetes | Self::Bench => 8,
            Self::Unit | Self::KernelsBrief | Self::Kernels => 60,
            Self::Chart
            | Self::Image
            | Self::ProgRun
            | Self::Netns
            | Self::Permits
            | Self::Guard
            | Self::E2e
            | Self::Flanneld => 4,
        })
    }

    /// Whether it needs root, the BPF object and the tools.
    pub(super) fn privileged(self) -> bool {
        self.runs() != Runs::Workspace
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        formatter.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// The tiers that were asked for, each once, cheapest first. When none was, those that a change is
/// tried with, or with `all` every one: the tier `kernels` has its brief part in it.
pub(super) fn in_order(asked: &[Tier], all: bool) -> Vec<Tier> {
    let usual = |tier| {
        let brief = tier == Tier::KernelsBrief;
        let long = matches!(tier, Tier::Bench | Tier::Kernels);
        if all { !brief } else { !long }
    };
    let tiers = Tier::value_variants().iter().copied();
    tiers
        .filter(|tier| asked.contains(tier) || (asked.is_empty() && usual(*tier)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_tier_runs_first() {
        let asked = [Tier::E2e, Tier::Unit, Tier::E2e];
        assert_eq!(in_order(&asked, false), [Tier::Unit, Tier::E2e]);
        let usual = [
            Tier::Unit,
            Tier::Chart,
            Tier::Image,
            Tier::ProgRun,
            Tier::Netns,
            Tier::Permits,
            Tier::Guard,
            Tier::E2e,
            Tier::Continuity,
            Tier::Flanneld,
            Tier::Kubernetes,
        ];
        let plain = [usual.as_slice(), &[Tier::KernelsBrief]].concat();
        assert_eq!(in_order(&[], false), plain);
        let all = [usual.as_slice(), &[Tier::Bench, Tier::Kernels]].concat();
        assert_eq!(in_order(&[], true), all);
    }

    #[test]
    fn what_runs_alone_is_there() {
        for (tier, begin) in ALONE {
            let Runs::Target(target) = tier.runs() else {
                panic!("{tier} has no target");
            };
            let folder = crate::places::root().join(target.folder).join(target.name);
            let file = format!("{}.rs", begin.trim_end_matches("::").replace("::", "/"));
            assert!(folder.join(&file).is_file(), "{tier} has no {file}");
        }
    }

    #[test]
    fn every_target_exists() {
        for tier in in_order(&[], true) {
            if let Runs::Target(target) = tier.runs() {
                let folder = crate::places::root().join(target.folder);
                let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
                for name in [target.name, target.package] {
                    assert!(manifest.contains(&format!("name = \"{name}\"")), "{tier}");
                }
            }
        }
    }
}
