//! The settings as a program reads them: first of all.

use core::ops::Deref;

use twill_abi::{CONFIG_FLAG_FAST_PATH, CONFIG_FLAG_STALE, Config, FastPath, Mode};

use crate::maps;

/// The agent's settings, and the operator's word on top of them: both entries are read once, so
/// one packet never meets two opinions.
pub struct Settings {
    agent: &'static Config,
    /// The [`FastPath`] that holds. The field of the same name in the agent's settings is hidden
    /// by this one, so whoever asks must have these settings at hand.
    fast_path: u32,
}

impl Deref for Settings {
    type Target = Config;

    #[inline(always)]
    fn deref(&self) -> &Config {
        self.agent
    }
}

/// The settings, if the programs shall work: the operator's word goes before the agent's, and
/// silence means the kernel.
#[inline(always)]
pub fn active() -> Option<Settings> {
    let agent = maps::agent_config()?;
    let (mut mode, mut fast_path) = (agent.mode, agent.fast_path);
    if let Some(operator) = maps::operator_config() {
        if operator.mode != Mode::Unset as u32 {
            mode = operator.mode;
        }
        if operator.flags & CONFIG_FLAG_FAST_PATH != 0 {
            fast_path = operator.fast_path;
        }
    }
    // Without its assumptions nothing may skip the stack, whoever wants it.
    if agent.flags & CONFIG_FLAG_STALE != 0 {
        fast_path = FastPath::Off as u32;
    }
    (mode == Mode::Bpf as u32).then_some(Settings { agent, fast_path })
}

/// Whether flows may skip the host's stack at all.
#[inline(always)]
pub fn fast_path(settings: &Settings) -> bool {
    settings.fast_path == FastPath::Permit as u32 || direct(settings)
}

/// Whether the mode `direct` is on.
#[inline(always)]
pub fn direct(settings: &Settings) -> bool {
    settings.fast_path == FastPath::Direct as u32
}
