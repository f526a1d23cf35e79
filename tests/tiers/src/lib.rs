//! What every tier shares.

#![forbid(unsafe_code)]

/// Whether the tiers must run: `cargo xtask test <tier>` sets `TWILL_TIERS` after it has
/// provided root, the BPF object and the tools. Without it a plain `cargo test` says what
/// it left out; with it nothing may be left out.
pub fn required() -> bool {
    std::env::var_os("TWILL_TIERS").is_some_and(|value| !value.is_empty())
}
