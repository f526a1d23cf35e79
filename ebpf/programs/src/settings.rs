//! The settings as a program reads them: first of all.

use twill_abi::{Config, FastPath, Mode};

use crate::maps;

/// The settings, if the programs shall work: the operator's word goes before the agent's, and
/// silence means the kernel.
#[inline(always)]
pub fn active() -> Option<&'static Config> {
    let config = maps::agent_config()?;
    let operator = maps::operator_config().map_or(Mode::Unset as u32, |operator| operator.mode);
    let mode = if operator == Mode::Unset as u32 {
        config.mode
    } else {
        operator
    };
    (mode == Mode::Bpf as u32).then_some(config)
}

/// Whether flows may skip the host's stack at all.
#[inline(always)]
pub fn fast_path(config: &Config) -> bool {
    config.fast_path != FastPath::Off as u32 && config.flags & twill_abi::CONFIG_FLAG_STALE == 0
}
