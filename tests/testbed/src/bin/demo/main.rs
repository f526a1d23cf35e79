//! `twill-demo`: three nodes on this machine, pods that talk over Twill, measured.
//!
//! `cargo xtask demo` builds what it needs and runs it. Everything happens in network
//! namespaces that it makes and removes, also after an error or Ctrl-C.

#![forbid(unsafe_code)]

mod compare;
mod counted;
mod findings;
mod keep;
mod nodes;
mod reach;
mod survive;
mod voice;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use twill_testbed::cluster::Cluster;
use twill_testbed::netns::Prefix;
use twill_testbed::signals;
use twill_testbed::wait::check_interrupt;

use findings::Findings;
use voice::Voice;

/// Exit code after a signal, as a shell would give for SIGINT.
const INTERRUPTED: u8 = 128 + 2;

/// Three nodes on this machine, pods that talk over Twill, measured. Needs root.
#[derive(Debug, Parser)]
struct Args {
    /// Leave everything running at the end, and say how to enter it
    #[arg(long)]
    keep: bool,
    /// Remove what an earlier run with --keep left running, and do nothing else
    #[arg(long, conflicts_with_all = ["keep", "json"])]
    clean: bool,
    /// Print one JSON document and nothing else; progress goes to standard error
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let voice = Voice::new(args.json);
    let mut findings = Findings::default();
    let start = Instant::now();
    let outcome = prepare().and_then(|()| {
        if args.clean {
            keep::clean(&voice)
        } else {
            show(&voice, args.keep, &mut findings)
        }
    });
    findings.end(&outcome, start.elapsed());
    if args.json {
        voice::document(&findings);
    }
    match outcome {
        Ok(()) => {
            voice.ok(if args.clean { "removed" } else { "ok" });
            ExitCode::SUCCESS
        }
        Err(_) if check_interrupt().is_err() => {
            voice::failed("interrupted; everything is removed");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            voice::failed(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the demo makes network namespaces and loads BPF programs: run it as root");
    }
    signals::watch()
}

/// The demo from its first namespace to the last.
fn show(voice: &Voice, keep: bool, findings: &mut Findings) -> Result<()> {
    let prefix = if keep {
        keep::prefix()?
    } else {
        Prefix::unique()
    };
    let mut cluster = nodes::build(voice, prefix, findings)?;
    let shown = show_on(voice, &cluster, findings);
    cluster.explained(shown)?;
    survive::kill_an_agent(voice, &mut cluster, findings)?;
    if keep {
        keep::leave(voice, cluster);
    } else {
        voice.heading("Removing everything");
        drop(cluster);
    }
    Ok(())
}

fn show_on(voice: &Voice, cluster: &Cluster, findings: &mut Findings) -> Result<()> {
    reach::every_pod_reaches_every_pod(voice, cluster, findings)?;
    counted::who_encapsulated(voice, cluster, findings)?;
    compare::beside_the_kernel(voice, cluster, findings)
}
