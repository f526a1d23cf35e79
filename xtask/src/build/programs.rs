//! Building the BPF object with its own compiler, into its own target folder.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::setup::Toolchain;
use crate::{console, places, process};

/// The BPF target of little-endian machines.
const TARGET: &str = "bpfel-unknown-none";
/// `v3` is the newest instruction set that every kernel we run on takes (5.1); full debug
/// information is what the linker makes BTF from.
const FLAGS: &str = "-C target-cpu=v3 -C debuginfo=2 -C link-arg=--btf";
/// `e_machine` of a BPF object (`include/uapi/linux/elf-em.h`).
const EM_BPF: u16 = 247;

/// Builds the programs with these features of theirs, and puts the object at `object`.
pub(super) fn build(toolchain: &Toolchain, features: &[&str], object: &Path) -> Result<()> {
    let first = if object.is_file() {
        ""
    } else {
        " (the first time up to 2 min)"
    };
    console::step(&format!("build the BPF programs{first}"));
    let mut command = toolchain.compiler.build();
    environment(&mut command, toolchain);
    command.args(["--release", "--package", "twill-programs"]);
    command.args(features.iter().flat_map(|feature| ["--features", feature]));
    process::run(&mut command)?;
    let built = places::bpf_target().join(TARGET).join("release/twill");
    publish(&built, object)
}

/// The arguments and variables that every cargo command for the programs shares.
pub(crate) fn environment(command: &mut Command, toolchain: &Toolchain) {
    command
        .args(["-Z", "build-std=core", "--target", TARGET])
        .env("CARGO_TARGET_DIR", places::bpf_target())
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("RUSTFLAGS", FLAGS);
}

/// Copies `built` to `object` if it differs: a copy that changes nothing would make cargo
/// build the agent anew.
fn publish(built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("read {}", built.display()))?;
    ensure!(
        is_bpf(&bytes),
        "{} is not a BPF object for little-endian machines",
        built.display()
    );
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    // Whole or not at all: another build may be reading it.
    let partial = object.with_extension("o.partial");
    fs::write(&partial, &bytes).with_context(|| format!("write {}", partial.display()))?;
    fs::rename(&partial, object).with_context(|| format!("write {}", object.display()))
}

/// Whether this is a 64-bit little-endian ELF file for BPF.
fn is_bpf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF\x02\x01")
        && bytes
            .get(18..20)
            .is_some_and(|machine| machine == EM_BPF.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_for_the_host_is_no_bpf_object() {
        let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\xf7\0".to_vec();
        assert!(is_bpf(&header));
        header[18] = 62;
        assert!(!is_bpf(&header));
        assert!(!is_bpf(b"\x7fELF\x02\x01"));
        assert!(!is_bpf(b""));
    }
}
