//! Fetching kernels as Debian's packages, by an apt of our own: with its own sources, lists and
//! status, so that the machine's is neither used nor changed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::kernel::{FLAVOUR, KERNELS, Kernel, newest};
use crate::setup::DEBIAN_KEYS;
use crate::{console, process};

/// Names a mirror of Debian, where the machine's own sources have none.
const MIRROR_VARIABLE: &str = "TWILL_DEBIAN_MIRROR";

/// An apt that knows the suites of the kernels.
pub(super) struct Apt {
    directory: PathBuf,
    mirror: String,
}

impl Apt {
    /// Sets it up in `directory` and fetches the suites' lists of packages.
    pub(super) fn open(directory: &Path, kernels: &[&Kernel]) -> Result<Self> {
        console::step("fetch the package lists of the kernels' suites (up to 1 min)");
        let mirror = mirror()?;
        for folder in ["lists/partial", "cache/archives/partial"] {
            let folder = directory.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))
        };
        let source = |kernel: &&Kernel| {
            let suite = kernel.suite;
            format!("deb [arch=amd64 signed-by={DEBIAN_KEYS}] {mirror} {suite} main\n")
        };
        write(
            "sources.list",
            &kernels.iter().map(source).collect::<String>(),
        )?;
        write("status", "")?;
        write("apt.conf", &configuration(&directory.display().to_string()))?;
        let apt = Self {
            directory: directory.to_owned(),
            mirror,
        };
        process::run(apt.command("apt-get").args(["update", "-q"])).with_context(|| {
            let suites: Vec<_> = kernels.iter().map(|kernel| kernel.suite).collect();
            let mirror = &apt.mirror;
            format!(
                "{mirror} (another one may be named in {MIRROR_VARIABLE}) does not serve the \
                 package lists of {}",
                suites.join(", ")
            )
        })?;
        Ok(apt)
    }

    /// Unpacks the newest packages of `kernel` into `target`.
    pub(super) fn unpack(&self, kernel: &Kernel, target: &Path) -> Result<()> {
        let mut search = self.command("apt-cache");
        search.args(["pkgnames", "linux-"]);
        let names = process::stdout(&mut search)?;
        let mut packages = Vec::new();
        for prefix in kernel.packages {
            let Some(package) = newest(names.lines(), prefix) else {
                bail!(
                    "{} of {} has no package {prefix}…{FLAVOUR}",
                    kernel.suite,
                    self.mirror
                );
            };
            packages.push(package);
        }
        console::step(&format!("fetch {} (about 30 MB)", packages.join(", ")));
        let downloads = target.with_extension("packages");
        fs::create_dir_all(&downloads).with_context(|| format!("make {}", downloads.display()))?;
        let mut download = self.command("apt-get");
        download.args(["download", "-q"]).args(&packages);
        process::run(download.current_dir(&downloads))
            .with_context(|| format!("{} does not serve {}", self.mirror, packages.join(", ")))?;
        for entry in fs::read_dir(&downloads).context("list the packages")? {
            let package = entry.context("list the packages")?.path();
            process::run(Command::new("dpkg").arg("-x").arg(&package).arg(target))?;
        }
        fs::remove_dir_all(&downloads).with_context(|| format!("remove {}", downloads.display()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.directory.join("apt.conf"));
        command
    }
}

/// Everything that apt keeps, in a folder of ours; a list that cannot be fetched is an error,
/// which it would otherwise only warn of.
fn configuration(directory: &str) -> String {
    format!(
        "Dir::Etc::SourceList \"{directory}/sources.list\";\n\
         Dir::Etc::SourceParts \"-\";\n\
         Dir::State::Lists \"{directory}/lists\";\n\
         Dir::State::Status \"{directory}/status\";\n\
         Dir::Cache \"{directory}/cache\";\n\
         APT::Update::Error-Mode \"any\";\n\
         Acquire::Retries \"3\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         APT::Sandbox::User \"root\";\n"
    )
}

/// The mirror of Debian: what the variable says, else the machine's own.
fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var(MIRROR_VARIABLE) {
        return Ok(mirror);
    }
    // Whose mirror it is, apt knows from lists that a fresh machine has not fetched yet.
    let mirror = machines_own().or_else(|| {
        let update = process::run(Command::new("apt-get").args(["update", "-q"]));
        update.ok().and_then(|()| machines_own())
    });
    mirror.with_context(|| {
        format!(
            "the machine's apt knows no mirror of Debian: name one in {MIRROR_VARIABLE}, for the \
             suites {}",
            KERNELS.map(|kernel| kernel.suite).join(", ")
        )
    })
}

fn machines_own() -> Option<String> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(SITE) $(LABEL)",
        "Created-By: Packages",
    ]);
    let sources = process::probe(&mut command)?;
    debian_in(&sources).map(str::to_owned)
}

/// The first site whose label is `Debian`; security updates have another.
fn debian_in(sources: &str) -> Option<&str> {
    sources
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(_, label)| *label == "Debian")
        .map(|(site, _)| site)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_own_archive_is_the_mirror() {
        let sources = "http://security.invalid/debian Debian-Security\n\
                       http://other.invalid/ \n\
                       http://mirror.invalid/debian Debian\n";
        assert_eq!(debian_in(sources), Some("http://mirror.invalid/debian"));
        assert_eq!(debian_in("http://archive.invalid/ubuntu Ubuntu\n"), None);
        assert_eq!(debian_in(""), None);
    }
}
