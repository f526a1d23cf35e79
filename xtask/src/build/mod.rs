//! `cargo xtask build`: the BPF programs, then the binaries that embed them.

mod artifacts;
mod programs;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{console, image, places, process, setup};

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
    /// For trying things out.
    pub(crate) const DEBUG: Self = Self { release: false };

    fn flag(self) -> Option<&'static str> {
        self.release.then_some("--release")
    }
}

/// What was built.
pub(crate) struct Built {
    /// The BPF object.
    pub(crate) object: PathBuf,
    /// The folder of twilld, twillctl and the CNI plugin.
    pub(crate) binaries: PathBuf,
    /// The folder of those with the next ABI version, where tests need them.
    pub(crate) next: Option<PathBuf>,
    /// A real flanneld, where tests need it and it could be had.
    pub(crate) flanneld: Option<PathBuf>,
    /// A real Docker, the same.
    pub(crate) docker: Option<PathBuf>,
    /// The folder of real CNI plugins, the same.
    pub(crate) cni: Option<PathBuf>,
    /// The image's archive, where tests need it and it could be made.
    pub(crate) image: Option<PathBuf>,
    /// Helm, the same.
    pub(crate) helm: Option<PathBuf>,
    /// The folder of flannel's charts, the same.
    pub(crate) flannel_charts: Option<PathBuf>,
    /// The folders of Kubernetes' programs, the same.
    pub(crate) kubernetes: Option<[PathBuf; 3]>,
}

impl Built {
    /// Tells a demo or a test where things are.
    pub(crate) fn describe(&self, command: &mut Command) {
        command
            .env("TWILL_BIN_DIR", &self.binaries)
            .env("TWILL_BPF_OBJECT", &self.object)
            .env(setup::CNI_VARIABLE, setup::cni_folder());
        if let Some(next) = &self.next {
            command.env("TWILL_NEXT_BIN_DIR", next);
        }
        if let Some(flanneld) = &self.flanneld {
            command.env(setup::flanneld::VARIABLE, flanneld);
        }
        if let Some(docker) = &self.docker {
            command.env(setup::docker::VARIABLE, docker);
        }
        if let Some(cni) = &self.cni {
            command.env(setup::cni::VARIABLE, cni);
        }
        if let Some(image) = &self.image {
            command.env(image::VARIABLE, image);
        }
        if let Some(helm) = &self.helm {
            command.env(setup::helm::VARIABLE, helm);
        }
        if let Some(charts) = &self.flannel_charts {
            command.env(setup::flannel_charts::VARIABLE, charts);
        }
        if let Some(folders) = &self.kubernetes {
            command.envs(setup::kubernetes::VARIABLES.iter().zip(folders));
        }
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
        "twilld, twillctl and flannel, the CNI plugin: {}",
        built.binaries.display()
    ));
    Ok(())
}

/// Builds the BPF programs and the agent; cargo skips what is up to date.
pub(crate) fn build(toolchain: &setup::Toolchain, profile: Profile) -> Result<Built> {
    programs::build(toolchain, &[], &places::bpf_object())?;
    console::step("build twilld, twillctl and the CNI plugin");
    let mut command = process::cargo();
    command
        .args([
            "build",
            "--package",
            "twill-agent",
            "--package",
            "twill-cni",
            "--package",
            "twill-ctl",
            "--bins",
        ])
        .args(profile.flag());
    let daemon = Artifacts::build(&mut command)?.binary("twilld")?;
    let binaries = daemon
        .parent()
        .context("twilld was built without a folder")?
        .to_owned();
    Ok(Built {
        object: places::bpf_object(),
        binaries,
        next: None,
        flanneld: None,
        docker: None,
        cni: None,
        image: None,
        helm: None,
        flannel_charts: None,
        kubernetes: None,
    })
}

/// Builds twilld and twillctl as the tests of upgrades want them, with the next ABI version and
/// points at which they can be cut off, and returns their folder. What [`build`] has built is
/// overwritten: build it again, which takes no time.
pub(crate) fn build_next(toolchain: &setup::Toolchain, profile: Profile) -> Result<PathBuf> {
    let folder = places::root().join("target/next");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let object = places::bpf_target().join("twill-next.o");
    programs::build(toolchain, &["next-abi"], &object)?;
    console::step("build twilld and twillctl with the next ABI version, for the tests");
    let mut command = process::cargo();
    command
        .args([
            "build",
            "--package",
            "twill-agent",
            "--package",
            "twill-ctl",
        ])
        .arg("--bins")
        .args(["--features", "next-abi,crash-points"])
        .args(profile.flag())
        .env("TWILL_BPF_OBJECT", &object);
    let built = Artifacts::build(&mut command)?;
    for name in ["twilld", "twillctl"] {
        let from = built.binary(name)?;
        let to = folder.join(name);
        // A new file: the old one may be running still.
        let partial = folder.join(format!("{name}.partial"));
        fs::copy(&from, &partial)
            .and_then(|_| fs::rename(&partial, &to))
            .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    Ok(folder)
}

/// Builds one binary of one package and returns its path.
pub(crate) fn binary(package: &str, name: &str, profile: Profile) -> Result<PathBuf> {
    let mut command = process::cargo();
    command
        .args(["build", "--package", package, "--bin", name])
        .args(profile.flag());
    Artifacts::build(&mut command)?.binary(name)
}
