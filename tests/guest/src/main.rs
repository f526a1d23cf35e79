//! The first process of a kernel under test; `cargo xtask test kernels` starts it in QEMU.
//!
//! It brings the guest up, loads every BPF program in its largest configuration, tries what
//! the kernel can do, runs the tiers that the plan names, and says all of it on the second
//! serial port, one JSON value a line (see [`message`]). Then it switches the guest off.
//! It has no other use: as anything but process 1 it refuses to run.

#![forbid(unsafe_code)]

mod features;
mod machine;
mod message;
mod plan;
mod programs;
mod reporter;
mod tiers;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::getpid;

use message::Message;
use plan::Plan;
use reporter::Reporter;

/// Where tests find the names of the features that are there, one a line.
const FEATURES: &str = "TWILL_KERNEL_HAS";
/// The argument by which process 1 starts the process that does the work.
const WORK: &str = "work";

fn main() -> ExitCode {
    let result = if std::env::args().nth(1).as_deref() == Some(WORK) {
        work()
    } else {
        first_process()
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            machine::log(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Process 1: mounts, starts the work, takes orphans off the process table meanwhile (a test
/// that asks whether a process is gone must not find its zombie), and switches off.
fn first_process() -> Result<()> {
    ensure!(
        getpid().as_raw() == 1,
        "this runs as process 1 of a guest only"
    );
    let result = machine::mount().and_then(|()| machine::run_to_its_end(WORK));
    if let Err(error) = result {
        machine::log(&format!("{error:#}"));
    }
    machine::switch_off()
}

/// The work. What goes wrong here is said to the host, not only to the console.
fn work() -> Result<()> {
    let mut reporter = Reporter::open()?;
    let result = run(&mut reporter);
    if let Err(error) = &result {
        reporter.say(&Message::Trouble {
            text: format!("{error:#}"),
        })?;
    }
    reporter.say(&Message::End {})
}

fn run(reporter: &mut Reporter) -> Result<()> {
    let text = fs::read(plan::FILE).with_context(|| format!("read {}", plan::FILE))?;
    let mut plan: Plan =
        serde_json::from_slice(&text).with_context(|| format!("understand {}", plan::FILE))?;
    machine::set_up()?;
    reporter.say(&Message::Kernel {
        release: machine::release()?,
    })?;
    for module in &plan.modules {
        machine::load_module(module).with_context(|| format!("load the module {module}"))?;
    }
    let object = &plan.object;
    let object = fs::read(object).with_context(|| format!("read {}", object.display()))?;
    programs::load_all(&object, reporter)?;
    let there = features::try_all(&object, reporter)?;
    let found: Vec<&str> = there.iter().copied().collect();
    plan.environment
        .insert(FEATURES.to_owned(), found.join("\n"));
    for tier in &plan.tiers {
        match &tier.needs {
            Some(needs) if !there.contains(needs.as_str()) => {
                reporter.say(&Message::LeftOut {
                    tier: tier.name.clone(),
                    why: format!("{needs} is missing"),
                })?;
            }
            _ => tiers::run(tier, &plan, reporter)?,
        }
    }
    Ok(())
}
