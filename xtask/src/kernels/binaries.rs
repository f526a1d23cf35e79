//! The programs and test binaries of ours that run inside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::guest::folder;
use super::programs::{self, Copy};
use crate::build::Artifacts;
use crate::{console, process};

/// The host's own target: naming it keeps flags away from build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The agent's programs.
const AGENT: [&str; 2] = ["twilld", "twillctl"];

/// What was built.
pub(super) struct Binaries {
    /// The first process.
    pub(super) init: PathBuf,
    /// The agent's programs, where they were built.
    pub(super) agent: Vec<PathBuf>,
    /// Test binaries by target.
    pub(super) tests: BTreeMap<&'static str, PathBuf>,
    /// What all of these need beside themselves.
    pub(super) libraries: BTreeSet<Copy>,
}

/// Linked statically and optimised a little: emulated processors are slow, and where agents run
/// this pays for itself in the first run.
pub(super) fn optimised(targets: &BTreeSet<&'static str>) -> Result<Binaries> {
    console::step("build what runs in the guests (the first time up to 5 min)");
    let mut command = process::cargo();
    command
        .args(["build", "--target", TARGET, "--bins"])
        .args(["--package", "twill-tests", "--package", "twill-guest"])
        .args(["--package", "twill-agent", "--package", "twill-ctl"])
        .args(targets.iter().flat_map(|target| ["--test", target]))
        .env("CARGO_TARGET_DIR", folder())
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("CARGO_PROFILE_DEV_STRIP", "symbols");
    let built = Artifacts::build(&mut command)?;
    let tests = targets
        .iter()
        .map(|&target| Ok((target, built.test(target)?)))
        .collect::<Result<_>>()?;
    Ok(Binaries {
        init: built.binary("twill-guest")?,
        agent: AGENT
            .iter()
            .map(|name| built.binary(name))
            .collect::<Result<_>>()?,
        tests,
        libraries: BTreeSet::new(),
    })
}

/// Those that this machine's own tiers have run already, with the libraries that they need, so
/// that hardly anything is compiled for the guests. The agent is not among them.
pub(super) fn of_this_machine(targets: &BTreeSet<&'static str>) -> Result<Binaries> {
    console::step("build the first process of the guests");
    let mut command = process::cargo();
    command.args(["build", "--package", "twill-guest"]);
    let init = Artifacts::build(&mut command)?.binary("twill-guest")?;
    let mut libraries = BTreeSet::from_iter(programs::libraries_of(&init));
    let mut tests = BTreeMap::new();
    for &target in targets {
        let file = Artifacts::of_tests("twill-tests", target)?;
        libraries.extend(programs::libraries_of(&file));
        tests.insert(target, stripped(&file, target)?);
    }
    Ok(Binaries {
        init: stripped(&init, "init")?,
        agent: Vec::new(),
        tests,
        libraries,
    })
}

/// A copy without debug information, which a guest would have to unpack.
fn stripped(file: &Path, name: &str) -> Result<PathBuf> {
    let folder = folder().join("stripped");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let copy = folder.join(name);
    process::run(Command::new("strip").arg("-o").arg(&copy).arg(file))?;
    Ok(copy)
}
