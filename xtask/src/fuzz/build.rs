//! Builds the fuzz program. What it depends on is kept in the cache: it takes minutes to build with
//! these flags, and is the same for every clone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{console, places, process};

/// The program that has all targets.
const PROGRAM: &str = "twill-fuzz";

/// Edge counters, their addresses, and what is compared with what.
const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=8";

/// Builds it, and gives a copy of it that is this clone's own.
pub(super) fn build() -> Result<PathBuf> {
    let kept = places::cache()?.join("fuzz");
    fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
    let turn = kept.join("turn");
    // Until the copy is made: another clone builds in the same place.
    let turn = File::create(&turn).with_context(|| format!("make {}", turn.display()))?;
    turn.lock().context("wait for another clone's build")?;

    console::step("build the fuzz targets (the first time on a machine up to 6 min)");
    if !is_of_this_clone(&kept) {
        forget_own(&kept)?;
    }
    process::run(cargo(&kept).args(["build", "--release", "--target", &host()]))?;
    let built = kept.join(host()).join("release").join(PROGRAM);
    let copy = places::root().join("target/fuzz").join(PROGRAM);
    // A new file: the old one may be running still.
    let partial = copy.with_extension("partial");
    fs::create_dir_all(places::root().join("target/fuzz"))
        .and_then(|()| fs::copy(&built, &partial))
        .and_then(|_| fs::rename(&partial, &copy))
        .with_context(|| format!("copy {} to {}", built.display(), copy.display()))?;
    Ok(copy)
}

/// With a target named, build scripts are not instrumented.
fn host() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn cargo(kept: &Path) -> Command {
    let mut command = process::cargo();
    command
        .current_dir(places::root().join("tests/fuzz"))
        .env("CARGO_TARGET_DIR", kept)
        .env("RUSTFLAGS", RUSTFLAGS);
    command
}

/// Whether this clone was the last to build there.
fn is_of_this_clone(kept: &Path) -> bool {
    fs::read(owner(kept)).is_ok_and(|path| path == path_of_this_clone())
}

fn owner(kept: &Path) -> PathBuf {
    kept.join("clone")
}

fn path_of_this_clone() -> &'static [u8] {
    places::root().as_os_str().as_encoded_bytes()
}

/// Removes what was built from another clone's own source: cargo knows it by its age alone, and
/// would take it for this one's.
fn forget_own(kept: &Path) -> Result<()> {
    // Without the platform, packages for all others would be fetched.
    let words = ["metadata", "--format-version=1", "--filter-platform"];
    let metadata = process::stdout(cargo(kept).args(words).arg(host()))?;
    let own = own_packages(&metadata)?;
    let mut clean = cargo(kept);
    clean.args(["clean", "--release", "--target", &host()]);
    for package in &own {
        clean.args(["--package", package]);
    }
    process::run(&mut clean)?;
    fs::write(owner(kept), path_of_this_clone()).context("say whose build this is")
}

/// The packages that come from no registry.
fn own_packages(metadata: &str) -> Result<Vec<String>> {
    let metadata: Metadata =
        serde_json::from_str(metadata).context("cargo's metadata are not as expected")?;
    let own = metadata.packages.into_iter();
    Ok(own
        .filter(|package| package.source.is_none())
        .map(|package| package.name)
        .collect())
}

/// What `cargo metadata` says, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    /// The registry; none for a folder.
    source: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_packages_are_those_of_no_registry() {
        let metadata = r#"{"packages":[{"name":"serde","source":"registry+https://x"},
            {"name":"twill-core","source":null}],"version":1}"#;
        assert_eq!(own_packages(metadata).unwrap(), ["twill-core"]);
        assert!(own_packages("{}").is_err());
    }
}
