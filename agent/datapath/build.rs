//! Embeds the BPF object, if it was built, and what `--version` says about the build.
//!
//! `cargo xtask build` builds the object and puts it at `target/bpf/twill.o`; a package build
//! may name another file in `TWILL_BPF_OBJECT`. Without one an empty file is embedded: a plain
//! `cargo build`, `test` or `clippy` works in a fresh clone, and the agent says at run time
//! that it has no BPF programs.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};

/// Names the object to embed.
const OBJECT_VARIABLE: &str = "TWILL_BPF_OBJECT";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT_VARIABLE}");
    let object = object()?;
    let embedded = PathBuf::from(variable("OUT_DIR")?).join("twill.o");
    fs::write(&embedded, &object).with_context(|| format!("write {}", embedded.display()))?;

    let programs = if object.is_empty() {
        "no BPF programs".to_owned()
    } else {
        format!("BPF programs {:016x}", fingerprint(&object))
    };
    let build = format!(
        "{} ({}, {}, {programs})",
        variable("CARGO_PKG_VERSION")?,
        variable("TARGET")?,
        variable("PROFILE")?
    );
    println!("cargo::rustc-env=TWILL_BUILD={build}");
    Ok(())
}

/// The object's bytes; none where there is no object.
fn object() -> Result<Vec<u8>> {
    if let Some(named) = env::var_os(OBJECT_VARIABLE).filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        println!("cargo::rerun-if-changed={}", named.display());
        let read = || format!("read {}, which {OBJECT_VARIABLE} names", named.display());
        let bytes = fs::read(&named).with_context(read)?;
        ensure!(
            !bytes.is_empty(),
            "{} is empty ({OBJECT_VARIABLE})",
            named.display()
        );
        return Ok(bytes);
    }
    let folder = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../../target/bpf");
    let built = folder.join("twill.o");
    if built.is_file() {
        println!("cargo::rerun-if-changed={}", built.display());
        return fs::read(&built).with_context(|| format!("read {}", built.display()));
    }
    // cargo would run this again in every build for a watched file that is not there. It
    // watches the folder until the object is in it; where the folder cannot be made, for
    // instance in a read-only source tree, there is nothing to watch either.
    if fs::create_dir_all(&folder).is_ok() {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    Ok(Vec::new())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("cargo sets {name} for build scripts"))
}

/// 64-bit FNV-1a: tells two objects apart for a person, not for an attacker.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
