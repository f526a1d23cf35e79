//! `cargo xtask fuzz`: parsers of what others write, fed with noise by libFuzzer.
//!
//! The pinned stable compiler counts edges by LLVM's coverage pass; a nightly is needed only
//! for sanitizers, and there is no unsafe code in what is fuzzed.

mod build;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::{console, places};

/// The targets, as `agent/src/noise` has them.
const TARGETS: [&str; 13] = [
    "config",
    "etcd_record",
    "iptables",
    "lease_key",
    "lease_server",
    "lease_value",
    "netlink",
    "nft",
    "own_files",
    "proc",
    "serve_record",
    "serve_request",
    "subnet_env",
];

/// Targets that run beside each other: two for each of CI's cores.
const LANES: usize = 4;
/// Lines of its output that are shown of a target that failed.
const LAST_LINES: usize = 40;

/// Names the target that the program feeds.
const VARIABLE: &str = "TWILL_FUZZ";

/// What `fuzz` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The targets, all of them when none is named
    #[arg(value_name = "TARGET", value_parser = TARGETS)]
    targets: Vec<String>,
    /// How long each of them runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
}

/// The command: builds the targets, and runs some at a time. What makes one fail is kept in
/// `target/fuzz/found` and named.
pub(crate) fn run(args: &Args) -> Result<()> {
    let target = places::root().join("target/fuzz");
    let program = build::build()?;

    let all = TARGETS.map(str::to_owned);
    let names = if args.targets.is_empty() {
        &all[..]
    } else {
        &args.targets
    };
    let mut failed = Vec::new();
    for lane in names.chunks(LANES) {
        console::step(&format!("fuzz {} for {} s", lane.join(", "), args.seconds));
        let mut running = Vec::new();
        for name in lane {
            let log = target.join("work").join(format!("{name}.log"));
            let child = start(&program, name, args.seconds, &log);
            running.push((name, log, child.with_context(|| format!("start {name}"))?));
        }
        for (name, log, mut child) in running {
            let good = child.wait()?.success();
            let output = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
            let output = String::from_utf8_lossy(&output);
            if good {
                let inputs = inputs(&output).with_context(|| format!("no count in {output}"))?;
                console::note(&format!("{name}: {inputs} inputs"));
            } else {
                let last = console::last_lines(&output, LAST_LINES);
                console::note(&format!("{name} failed:\n{last}"));
                failed.push(name.as_str());
            }
        }
    }
    ensure!(
        failed.is_empty(),
        "failed: {}; the inputs are in {}",
        failed.join(", "),
        target.join("found").display()
    );
    Ok(())
}

/// Starts a target, which tells its story in the file `log`.
fn start(program: &Path, name: &str, seconds: u32, log: &Path) -> Result<Child> {
    let folder = places::root().join("target/fuzz");
    let work = fresh(folder.join("work").join(name))?;
    let found = folder.join("found");
    fs::create_dir_all(&found)?;
    let log = File::create(log)?;
    let child = Command::new(program)
        .env(VARIABLE, name)
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"])
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/{name}-", found.display()))
        // New finds go to the first folder; the stored corpus is only read.
        .arg(work)
        .arg(places::root().join("tests/fuzz/corpus").join(name))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(child)
}

/// How many inputs a target was fed with, by what it says at its end.
fn inputs(output: &str) -> Option<u64> {
    let (_, count) = output.split_once("stat::number_of_executed_units:")?;
    count.split_whitespace().next()?.parse().ok()
}

fn fresh(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_counted_by_libfuzzers_own_figure() {
        let output =
            "Done\nstat::number_of_executed_units: 431760\nstat::average_exec_per_sec:     1";
        assert_eq!(inputs(output), Some(431_760));
        for output in [
            "",
            "stat::number_of_executed_units:",
            "stat::new_units_added: 7",
        ] {
            assert_eq!(inputs(output), None, "{output}");
        }
    }

    #[test]
    fn every_target_is_there_with_a_corpus() {
        let targets = places::root().join("agent/src/noise/mod.rs");
        let targets = fs::read_to_string(targets).unwrap();
        let names = targets.lines().filter_map(|line| {
            let (name, _) = line.trim().strip_prefix("target(\"")?.split_once('"')?;
            Some(name)
        });
        assert_eq!(names.collect::<Vec<_>>(), TARGETS);
        let corpus = places::root().join("tests/fuzz/corpus");
        let mut found: Vec<String> = fs::read_dir(&corpus)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, TARGETS);
        for name in TARGETS {
            assert!(
                fs::read_dir(corpus.join(name)).unwrap().count() > 0,
                "{name}"
            );
        }
    }
}
