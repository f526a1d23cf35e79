//! `cargo xtask setup`: finds what building and testing need, installs what is missing.
//!
//! What is there is found by trying it, not by asking a package manager. Nothing is ever
//! removed or upgraded.

pub(crate) mod cni;
mod compiler;
pub(crate) mod docker;
pub(crate) mod flannel_charts;
pub(crate) mod flanneld;
mod golang;
pub(crate) mod helm;
pub(crate) mod kubernetes;
mod linker;
mod plan;
mod system;
mod tools;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::{console, kernels, places, privilege, process};

pub(crate) use compiler::Compiler;
use plan::{Missing, Plan};
use system::System;
pub(crate) use tools::{CNI_VARIABLE, DEBIAN_KEYS, cni_folder};

/// The BPF toolchain that was found.
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

/// What things must be there for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Building, the demo and the tests on this machine's kernel.
    Machine,
    /// Tests on other kernels as well.
    Kernels,
}

/// What is here, and what is not.
struct Found {
    compiler: Option<Compiler>,
    linker: Option<PathBuf>,
    missing: Missing,
}

/// The command.
pub(crate) fn run() -> Result<()> {
    let toolchain = ensure(Purpose::Kernels)?;
    let flanneld = flanneld::provide()?;
    let cni = cni::provide()?;
    let kubernetes = kubernetes::provide()?;
    let docker = docker::provide()?;
    let helm = helm::provide()?;
    let charts = flannel_charts::provide()?;
    let kernels = kernels::provide()?;
    console::step("everything is here");
    console::note(&format!("BPF compiler: {}", toolchain.compiler));
    console::note(&format!("BPF linker: {}", toolchain.linker.display()));
    console::note(&format!("flanneld: {}", flanneld.display()));
    console::note(&format!("CNI: {}", cni.display()));
    for folder in &kubernetes {
        console::note(&format!("Kubernetes: {}", folder.display()));
    }
    console::note(&format!("Docker: {}", docker.display()));
    console::note(&format!("Helm: {}", helm.display()));
    console::note(&format!("flannel's charts: {}", charts.display()));
    console::note(&format!("kernels: {}", kernels.display()));
    Ok(())
}

/// Makes sure that everything is here, and says nothing when it is.
pub(crate) fn ensure(purpose: Purpose) -> Result<Toolchain> {
    let found = look(purpose)?;
    if !found.missing.is_empty() {
        install(&found.missing)?;
    }
    let Found {
        compiler,
        linker,
        missing,
    } = if found.missing.is_empty() {
        found
    } else {
        look(purpose)?
    };
    match (compiler, linker) {
        (Some(compiler), Some(linker)) if missing.is_empty() => Ok(Toolchain { compiler, linker }),
        _ => bail!("still not there after installing: {missing}"),
    }
}

/// The BPF toolchain alone: what building needs, without the tools of the tests.
pub(crate) fn toolchain() -> Result<Toolchain> {
    let compiler = Compiler::find();
    match (compiler, linker::find()?) {
        (Some(compiler), Some(linker)) => Ok(Toolchain { compiler, linker }),
        _ => ensure(Purpose::Machine),
    }
}

fn look(purpose: Purpose) -> Result<Found> {
    let compiler = Compiler::find();
    let linker = linker::find()?;
    let missing = Missing {
        compiler: compiler.is_none(),
        linker: linker.is_none(),
        tools: tools::missing(purpose, compiler.as_ref()),
    };
    Ok(Found {
        compiler,
        linker,
        missing,
    })
}

fn install(missing: &Missing) -> Result<()> {
    console::step(&format!("missing: {missing}"));
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = System::from_os_release(&os_release);
    let plan = Plan::new(missing, system, &places::cache()?);
    if !plan.possible(privilege::is_root()) {
        console::result(&plan.instructions());
        bail!("{} are printed above", plan.why_not(privilege::is_root()));
    }
    for step in &plan.steps {
        console::step(&format!("{} ({})", step.title, step.lasts));
        let mut command = step.command();
        console::note(&process::line(&command));
        let begin = Instant::now();
        process::run(&mut command).with_context(|| step.title.clone())?;
        console::note(&format!("took {}", console::duration(begin.elapsed())));
    }
    Ok(())
}
