//! What every tier shares.

#![forbid(unsafe_code)]

pub mod known;

use aya::programs::ProgramError;

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
