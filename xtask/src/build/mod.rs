//! `cargo xtask build`: the BPF programs, then the binaries that embed them.

mod artifacts;
mod programs;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{console, places, process, setup};

pub(crate) use artifacts::Artifacts;
pub(crate) use programs::environment;

/// What `build` takes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) profile: Profile,
}

/// How the binaries for the host are compiled. The BPF programs are always optimised.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Profile {
    /// Optimise the binaries (the first build takes several minutes longer)
    #[arg(long)]
    release: bool,
}

impl Profile {
    /// What is measured is what is shipped.
    pub(crate) const RELEASE: Self = Self { release: true };

    fn flag(self) -> Option<&'static str> {
        self.release.then_some("--release")
    }
}

/// What was built.
pub(crate) struct Built {
    /// The BPF object.
    pub(crate) object: PathBuf,
    /// The folder of twilld and twillctl.
    pub(crate) binaries: PathBuf,
}

impl Built {
    /// Tells a demo or a test where things are.
    pub(crate) fn describe(&self, command: &mut Command) {
        command
            .env("TWILL_BIN_DIR", &self.binaries)
            .env("TWILL_BPF_OBJECT", &self.object)
            .env(setup::CNI_VARIABLE, setup::cni_folder());
    }
}

/// The command.
pub(crate) fn run(args: Args) -> Result<()> {
    let begin = Instant::now();
    let toolchain = setup::toolchain()?;
    let built = build(&toolchain, args.profile)?;
    console::step(&format!("built in {}", console::duration(begin.elapsed())));
    console::note(&format!("BPF programs: {}", built.object.display()));
    console::note(&format!(
        "twilld and twillctl: {}",
        built.binaries.display()
    ));
    Ok(())
}

/// Builds the BPF programs and the agent; cargo skips what is up to date.
pub(crate) fn build(toolchain: &setup::Toolchain, profile: Profile) -> Result<Built> {
    programs::build(toolchain)?;
    console::step("build twilld and twillctl");
    let mut command = process::cargo();
    command
        .args(["build", "--package", "twill-agent", "--bins"])
        .args(profile.flag());
    let daemon = Artifacts::build(&mut command)?.binary("twilld")?;
    let binaries = daemon
        .parent()
        .context("twilld was built without a folder")?
        .to_owned();
    Ok(Built {
        object: places::bpf_object(),
        binaries,
    })
}

/// Builds one binary of one package and returns its path.
pub(crate) fn binary(package: &str, name: &str, profile: Profile) -> Result<PathBuf> {
    let mut command = process::cargo();
    command
        .args(["build", "--package", package, "--bin", name])
        .args(profile.flag());
    Artifacts::build(&mut command)?.binary(name)
}
