//! What runs in guests, part by part.

use super::kernel::Kernel;

/// Tests of a target of `tests/tiers`.
#[derive(Debug)]
pub(super) struct Part {
    /// Its name, for people.
    pub(super) name: &'static str,
    /// The target.
    pub(super) target: &'static str,
    /// Part of the names of the tests that it runs, where it does not run all; a person who
    /// names tests says more than this.
    only: Option<&'static str>,
    /// What its binary gets as arguments.
    arguments: &'static [&'static str],
    /// A feature without which it proves nothing.
    pub(super) needs: Option<&'static str>,
    /// Whether it takes two guests on one wire.
    pair: bool,
    /// Whether it runs when no part is named.
    pub(super) usual: bool,
}

/// Every part. Those that share a target leave each other's tests out by `--skip`, and not by
/// naming their own, so that what a person names narrows them further.
pub(super) const PARTS: [Part; 5] = [
    Part {
        name: "prog_run",
        target: "prog_run",
        only: None,
        arguments: &[
            // The guest's first process takes the verifier's figures itself, for each kernel.
            "--skip",
            "verifier::",
            // They reach back further than a guest has been up.
            "--skip",
            "direct_in::a_syn_to_a_pod_in_its_place",
            "--skip",
            "direct_in::without_a_place",
        ],
        // Without it the agent attaches nothing.
        needs: Some(ENCAP),
        pair: false,
        usual: true,
    },
    Part {
        name: "agent",
        target: "kernels",
        only: None,
        arguments: &["--skip", "fast::", "--skip", "pair::", ONE_AT_A_TIME],
        needs: None,
        pair: false,
        usual: false,
    },
    Part {
        name: "permits",
        target: "kernels",
        only: None,
        arguments: &["--skip", "any::", "--skip", "pair::", ONE_AT_A_TIME],
        needs: Some(ENCAP),
        pair: false,
        usual: false,
    },
    Part {
        name: "netns",
        target: "netns",
        // What depends on the kernel's ways of attaching; the rest is this machine's matter.
        only: Some("agent_datapath::"),
        arguments: &[],
        needs: Some(ENCAP),
        pair: false,
        usual: false,
    },
    Part {
        name: "pair",
        target: "kernels",
        only: None,
        arguments: &["--skip", "any::", "--skip", "fast::", ONE_AT_A_TIME],
        needs: Some(ENCAP),
        pair: true,
        usual: true,
    },
];

/// As `tests/guest/src/features.rs` calls it.
const ENCAP: &str = "encap by BPF";

/// The verifier and two agents are enough for an emulated processor.
const ONE_AT_A_TIME: &str = "--test-threads=1";

/// What a guest is there for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// One guest, with nodes in namespaces.
    Alone,
    /// One of two guests on one wire, by this name.
    Side(&'static str),
}

impl Role {
    /// A name for its files and for people.
    pub(super) fn name(self, kernel: &Kernel) -> String {
        match self {
            Self::Alone => kernel.series.to_owned(),
            Self::Side(side) => format!("{}-{side}", kernel.series),
        }
    }

    /// Which of two guests it is.
    pub(super) fn side(self) -> Option<&'static str> {
        match self {
            Self::Alone => None,
            Self::Side(side) => Some(side),
        }
    }
}

impl Part {
    /// The arguments of its binary, with those that a person gave.
    pub(super) fn arguments(&self, libtest: &[String]) -> Vec<String> {
        let named = libtest.iter().any(|word| !word.starts_with('-'));
        let only = self.only.filter(|_| !named);
        let own = only.iter().chain(self.arguments).copied();
        own.map(str::to_owned)
            .chain(libtest.iter().cloned())
            .collect()
    }

    /// Whether guests of this role run it.
    pub(super) fn is_for(&self, role: Role) -> bool {
        self.pair == role.side().is_some()
    }
}
