//! `--keep` leaves everything running, under names that `--clean` finds again.

use std::path::Path;

use anyhow::{Result, bail};
use twill_testbed::cluster::Cluster;
use twill_testbed::netns::{self, Prefix};
use twill_testbed::sweep::{self, PINS};
use twill_testbed::{daemon, directory};

use crate::voice::Voice;

const PREFIX: &str = "twill-demo";

/// The prefix of all names of a demo that is kept; an error while one is there.
pub(crate) fn prefix() -> Result<Prefix> {
    if !names()?.is_empty() {
        bail!(
            "an earlier demo is still there; remove it with `{} --clean`",
            program()
        );
    }
    Ok(Prefix::fixed(PREFIX))
}

/// Leaves the cluster running, and tells how to enter and how to remove it.
pub(crate) fn leave(voice: &Voice, cluster: Cluster) {
    voice.heading("Everything is left running");
    for member in &cluster.members {
        let name = member.node.namespace().name();
        voice.built(format_args!(
            "node {}: ip netns exec {name} bash",
            member.node.label()
        ));
        for pod in &member.pods {
            voice.built(format_args!(
                "  pod {}: ip netns exec {} bash",
                pod.address(),
                pod.namespace().name()
            ));
        }
        if let Ok(ctl) = daemon::binary("twillctl") {
            voice.built(format_args!(
                "  counters: {} --instance {} --run-dir {} counters",
                ctl.display(),
                member.agent.instance(),
                member.agent.run_dir().display()
            ));
        }
    }
    voice.built(format_args!("remove it all: {} --clean", program()));
    // What is never dropped is never removed.
    std::mem::forget(cluster);
}

/// Removes what [`leave`] left.
pub(crate) fn clean(voice: &Voice) -> Result<()> {
    let names = names()?;
    for name in &names {
        netns::delete(name)?;
    }
    for parent in [PINS, directory::PARENT] {
        sweep::remove_directories(Path::new(parent), |name| name.starts_with(&begin()))?;
    }
    voice.built(format_args!("removed {} namespaces", names.len()));
    Ok(())
}

fn names() -> Result<Vec<String>> {
    netns::names_with(&begin())
}

fn begin() -> String {
    Prefix::fixed(PREFIX).name("")
}

fn program() -> String {
    std::env::current_exe().map_or_else(
        |_| "twill-demo".to_owned(),
        |path| path.display().to_string(),
    )
}
