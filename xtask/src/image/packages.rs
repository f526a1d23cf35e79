//! Debian's packages, as this machine's apt has them: fetched into the cache, checked by apt, and
//! unpacked without being installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{console, places, process};

/// One, unpacked.
#[derive(Debug)]
pub(super) struct Package {
    pub(super) version: String,
    pub(super) architecture: String,
    /// The source package.
    pub(super) source: String,
    /// Its files.
    pub(super) folder: PathBuf,
}

/// By name.
pub(super) type Packages = BTreeMap<String, Package>;

/// These packages and all that they depend on.
pub(super) fn provide(names: &BTreeSet<&str>) -> Result<Packages> {
    let cache = places::cache()?.join("image-packages");
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let closure = closure(names).or_else(|_no_lists| {
        update()?;
        closure(names)
    })?;
    let mut files = files(&closure)?;
    if !files.iter().all(|file| cache.join(file).is_file()) {
        console::note("fetch Debian's packages for the image");
        if download(&cache, &closure).is_err() {
            update()?;
            files = self::files(&closure)?;
            download(&cache, &closure)?;
        }
    }
    files.iter().map(|file| unpacked(&cache, file)).collect()
}

fn update() -> Result<()> {
    process::run(Command::new("apt-get").args(["update", "-q"]))
}

fn download(cache: &Path, names: &BTreeSet<String>) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.current_dir(cache).args(["download", "-q"]);
    process::run(command.args(names))
}

/// All that apt would install for them on a machine that has nothing.
fn closure(names: &BTreeSet<&str>) -> Result<BTreeSet<String>> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--recurse", "--no-recommends", "--no-suggests"]);
    command.args([
        "--no-conflicts",
        "--no-breaks",
        "--no-replaces",
        "--no-enhances",
    ]);
    let depends = process::stdout(command.args(names))?;
    Ok(packages_of(&depends))
}

/// The lines that begin a package; names in angle brackets are those of no package of their own.
/// What only a package's scripts need is none of the image's.
fn packages_of(depends: &str) -> BTreeSet<String> {
    const SCRIPTS: [&str; 6] = [
        "debconf",
        "debconf-2.0",
        "cdebconf",
        "perl",
        "dpkg",
        "openssl",
    ];
    let lines = depends.lines();
    lines
        .filter(|line| !line.starts_with([' ', '<', '|']) && !line.is_empty())
        .map(str::to_owned)
        .filter(|name| name.starts_with("lib") || !SCRIPTS.iter().any(|it| name.starts_with(it)))
        .collect()
}

/// The files' names, which have the versions in them.
fn files(names: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut command = Command::new("apt-get");
    command.args(["download", "-q", "--print-uris"]);
    Ok(parse_files(&process::stdout(command.args(names))?))
}

/// Each line is `'URI' FILE SIZE HASH`.
fn parse_files(lines: &str) -> Vec<String> {
    let files = lines.lines().filter_map(|line| line.split(' ').nth(1));
    files.map(str::to_owned).collect()
}

fn unpacked(cache: &Path, file: &str) -> Result<(String, Package)> {
    let deb = cache.join(file);
    let folder = deb.with_extension("d");
    if !folder.is_dir() {
        let partial = deb.with_extension(format!("partial-{}", std::process::id()));
        process::run(Command::new("dpkg").arg("-x").arg(&deb).arg(&partial))?;
        if fs::rename(&partial, &folder).is_err() && folder.is_dir() {
            fs::remove_dir_all(&partial).context("remove what somebody else unpacked too")?;
        }
    }
    let mut command = Command::new("dpkg-deb");
    let format = "${Package}\n${Version}\n${Architecture}\n${source:Package}\n";
    command.args(["--show", "--showformat", format]).arg(&deb);
    let text = process::stdout(&mut command)?;
    let mut lines = text.lines().map(str::to_owned);
    let mut next = || {
        lines
            .next()
            .with_context(|| format!("dpkg-deb printed {text:?}"))
    };
    let name = next()?;
    let package = Package {
        version: next()?,
        architecture: next()?,
        source: next()?,
        folder,
    };
    Ok((name, package))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_are_packages() {
        let depends = "iptables\n  Depends: libc6\n |Depends: x\nlibc6\n<debconf-2.0>\n\
                       debconf\nopenssl\nlibssl3\n";
        let names: Vec<_> = packages_of(depends).into_iter().collect();
        assert_eq!(names, ["iptables", "libc6", "libssl3"]);
    }

    #[test]
    fn a_file_is_named_after_its_version() {
        let line = "'http://x/n_6.4_all.deb' n_6.4_all.deb 12800 SHA256:29b2\n";
        assert_eq!(parse_files(line), ["n_6.4_all.deb"]);
    }
}
