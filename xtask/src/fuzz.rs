//! `cargo xtask fuzz`: parsers of what others write, fed with noise by libFuzzer.
//!
//! The pinned stable compiler counts edges by LLVM's coverage pass; a nightly is needed only
//! for sanitizers, and there is no unsafe code in what is fuzzed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{console, places, process};

/// The bins of `tests/fuzz`.
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

/// Targets that run beside each other: CI has two cores.
const LANES: usize = 2;

/// Edge counters, their addresses, and what is compared with what.
const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

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

/// The command: builds the targets, and runs two at a time. What makes one fail is kept in
/// `target/fuzz/found` and named.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = places::root().join("tests/fuzz");
    let target = places::root().join("target/fuzz");
    // With a target named, build scripts are not instrumented.
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = process::cargo();
    build
        .args(["build", "--release", "--target", &host])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", RUSTFLAGS);
    console::step("build the fuzz targets");
    process::run(&mut build)?;

    let all = TARGETS.map(str::to_owned);
    let names = if args.targets.is_empty() {
        &all[..]
    } else {
        &args.targets
    };
    let binaries = target.join(host).join("release");
    let mut failed = Vec::new();
    for lane in names.chunks(LANES) {
        console::step(&format!("fuzz {} for {} s", lane.join(", "), args.seconds));
        let mut running = Vec::new();
        for name in lane {
            let work = fresh(target.join("work").join(name))?;
            let found = target.join("found");
            fs::create_dir_all(&found)?;
            let mut command = Command::new(binaries.join(name));
            command
                .arg(format!("-max_total_time={}", args.seconds))
                .args(["-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"])
                .arg("-print_final_stats=1")
                .arg(format!("-artifact_prefix={}/{name}-", found.display()))
                // New finds go to the first folder; the stored corpus is only read.
                .arg(work)
                .arg(folder.join("corpus").join(name));
            let child = command.spawn().with_context(|| format!("start {name}"))?;
            running.push((name, child));
        }
        for (name, mut child) in running {
            if !child.wait()?.success() {
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
    fn every_target_is_there_with_a_corpus() {
        let folder = places::root().join("tests/fuzz");
        let mut found: Vec<String> = fs::read_dir(folder.join("targets"))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_owned())
            .map(|name| name.into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, TARGETS);
        for name in TARGETS {
            let corpus = folder.join("corpus").join(name);
            assert!(fs::read_dir(&corpus).unwrap().count() > 0, "{name}");
        }
    }
}
