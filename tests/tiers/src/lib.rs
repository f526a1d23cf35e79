//! What every tier shares.

#![forbid(unsafe_code)]

pub mod known;

use anyhow::{Context as _, Result};
use aya::programs::ProgramError;
use aya::{Ebpf, EbpfLoader};
use twill_abi::maps::MAPS;

/// Whether the tiers must run: `cargo xtask test <tier>` sets `TWILL_TIERS` after it has
/// provided root, the BPF object and the tools. Without it a plain `cargo test` says what
/// it left out; with it nothing may be left out.
pub fn required() -> bool {
    std::env::var_os("TWILL_TIERS").is_some_and(|value| !value.is_empty())
}

/// Loads a program in a process that has children, as the agent does it: where one ends meanwhile,
/// its signal makes the verifier give up with `EAGAIN`.
pub fn load_program(
    mut load: impl FnMut() -> Result<(), ProgramError>,
) -> Result<(), ProgramError> {
    const ATTEMPTS: u32 = 5;
    for _ in 1..ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == std::io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
    load()
}

/// The object under test, with maps that take little room: to the agent its programs are
/// somebody else's.
pub fn small_object() -> Result<Ebpf> {
    let path = std::env::var_os("TWILL_BPF_OBJECT").context("TWILL_BPF_OBJECT names the object")?;
    let mut loader = EbpfLoader::new();
    for map in MAPS {
        loader.map_max_entries(map.name, map.max_entries.min(4096));
    }
    Ok(loader.load(&std::fs::read(path)?)?)
}
