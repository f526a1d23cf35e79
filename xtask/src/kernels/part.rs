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
    /// Parts of the names of the tests that it leaves out.
    skips: &'static [&'static str],
    /// Whether its tests run by turns: the verifier and two agents are enough for an emulated
    /// processor.
    by_turns: bool,
    /// A feature without which it proves nothing.
    pub(super) needs: Option<&'static str>,
    /// Whether it takes two guests on one wire.
    pair: bool,
    /// The kernels on which the short run has it as well, by series.
    pub(super) brief: &'static [&'static str],
}

/// Every part. Those that share a target leave each other's tests out by `--skip`, and not by
/// naming their own, so that what a person names narrows them further.
pub(super) const PARTS: [Part; 5] = [
    Part {
        name: "prog_run",
        target: "prog_run",
        only: None,
        skips: &[
            // The guest's first process takes the verifier's figures itself, for each kernel.
            "verifier::",
            // They reach back further than a guest has been up.
            "direct_in::a_syn_to_a_pod_in_its_place",
            "direct_in::without_a_place",
            // Several packets within seconds or one within a millisecond, which an emulated
            // processor that is shared cannot promise.
            "no_faster_than_their_pace",
            "one_in_a_millisecond",
            "direct_in::what_the_stack_delivers",
        ],
        by_turns: false,
        // Without it the agent attaches nothing.
        needs: Some(ENCAP),
        pair: false,
        brief: &["6.1", "7.2"],
    },
    Part {
        name: "agent",
        target: "kernels",
        only: None,
        skips: &["fast::", "pair::"],
        by_turns: true,
        needs: None,
        pair: false,
        brief: &[],
    },
    Part {
        name: "permits",
        target: "kernels",
        only: None,
        skips: &["any::", "pair::"],
        by_turns: true,
        needs: Some(ENCAP),
        pair: false,
        brief: &[],
    },
    Part {
        name: "netns",
        target: "netns",
        // What depends on the kernel's ways of attaching; the rest is this machine's matter.
        only: Some("agent_datapath::"),
        skips: &[],
        by_turns: false,
        needs: Some(ENCAP),
        pair: false,
        brief: &[],
    },
    Part {
        name: "pair",
        target: "kernels",
        only: None,
        skips: &["any::", "fast::"],
        by_turns: true,
        needs: Some(ENCAP),
        pair: true,
        brief: &[],
    },
];

/// As `tests/guest/src/features.rs` calls it.
const ENCAP: &str = "encap by BPF";

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
        let skips = self.skips.iter().flat_map(|&name| ["--skip", name]);
        let turns = self.by_turns.then_some("--test-threads=1");
        only.into_iter()
            .chain(skips)
            .chain(turns)
            .map(str::to_owned)
            .chain(libtest.iter().cloned())
            .collect()
    }

    /// Whether guests of this role run it.
    pub(super) fn is_for(&self, role: Role) -> bool {
        self.pair == role.side().is_some()
    }
}
