//! The operator's override: key 1 of the map `config`, which every program reads first and the
//! agent never writes. Needs no agent, and no other map than this one.

use std::path::Path;

use aya::maps::{Array, MapData};
use serde::Serialize;
use twill_abi::maps::CONFIG;
use twill_abi::{
    CONFIG_FLAG_FAST_PATH, CONFIG_KEY_AGENT, CONFIG_KEY_OPERATOR, Config, FastPath, Mode,
};

use super::maps::MapsError;
use super::pins::Pins;
use super::reader::{self, ReaderError};

/// What the operator asked for; [`None`] leaves it to the agent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Override {
    /// Who carries packets.
    pub mode: Option<Mode>,
    /// Which flows may skip the host's stack.
    pub fast_path: Option<FastPath>,
}

/// What the programs go by, and whose word it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Word {
    /// What holds.
    pub holds: &'static str,
    /// What the agent says.
    pub agent: &'static str,
    /// What the operator says.
    pub operator: Option<&'static str>,
}

impl Override {
    /// What a value of the map says. A mode or fast path that nobody knows is what the programs
    /// make of it: the kernel's, and none.
    pub fn of(config: &Config) -> Self {
        let mode = (config.mode != Mode::Unset as u32).then(|| mode(config.mode));
        let fast_path = config.flags & CONFIG_FLAG_FAST_PATH != 0;
        Self {
            mode,
            fast_path: fast_path.then(|| self::fast_path(config.fast_path)),
        }
    }

    /// Puts it into a value of the map.
    pub(super) fn write(self, config: &mut Config) {
        let Self { mode, fast_path } = self;
        config.mode = mode.unwrap_or(Mode::Unset) as u32;
        config.fast_path = fast_path.unwrap_or(FastPath::Off) as u32;
        config.flags = match fast_path {
            None => config.flags & !CONFIG_FLAG_FAST_PATH,
            Some(_) => config.flags | CONFIG_FLAG_FAST_PATH,
        };
    }
}

/// Who carries packets, by the number in the map.
pub fn mode(number: u32) -> Mode {
    if number == Mode::Bpf as u32 {
        Mode::Bpf
    } else {
        Mode::Kernel
    }
}

/// Which flows may skip the host's stack, by the number in the map.
pub fn fast_path(number: u32) -> FastPath {
    [FastPath::Permit, FastPath::Direct]
        .into_iter()
        .find(|known| *known as u32 == number)
        .unwrap_or(FastPath::Off)
}

/// A fast path's name for people.
pub fn fast_path_name(fast_path: FastPath) -> &'static str {
    match fast_path {
        FastPath::Off => "off",
        FastPath::Permit => "permit",
        FastPath::Direct => "direct",
    }
}

/// The map `config`, open for the operator.
pub struct Switch(Array<MapData, Config>);

impl Switch {
    /// Opens the pinned map, verified.
    pub fn open(pins: &Pins) -> Result<Self, ReaderError> {
        Self::open_in(&pins.current())
    }

    fn open_in(folder: &Path) -> Result<Self, ReaderError> {
        let map = reader::open_in(folder, &CONFIG)?;
        let map = map.try_into().map_err(|source| MapsError::Open {
            map: CONFIG.name,
            source,
        })?;
        Ok(Self(map))
    }

    /// What the operator asked for last, of whatever ABI version the pins are: the map `config`
    /// is read through if it has this version's shape, which is why that shape does not change
    /// without need.
    pub fn last_word(pins: &Pins) -> Result<Override, ReaderError> {
        let mut failed = None;
        for version in pins.versions()? {
            let read = Self::open_in(&version).and_then(|switch| Ok(switch.operator()?));
            match read {
                Ok(asked) => return Ok(asked),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or_else(|| Ok(Override::default()), Err)
    }

    /// The agent's settings.
    pub fn agent(&self) -> Result<Config, MapsError> {
        self.get(CONFIG_KEY_AGENT)
    }

    /// What the operator asked for.
    pub fn operator(&self) -> Result<Override, MapsError> {
        Ok(Override::of(&self.get(CONFIG_KEY_OPERATOR)?))
    }

    /// Asks for something else, and reads it back.
    pub fn set(&mut self, wanted: Override) -> Result<Override, MapsError> {
        let mut config = self.get(CONFIG_KEY_OPERATOR)?;
        wanted.write(&mut config);
        self.0
            .set(CONFIG_KEY_OPERATOR, config, 0)
            .map_err(|source| MapsError::Write {
                map: CONFIG.name,
                what: "the operator's override".to_owned(),
                source,
            })?;
        self.operator()
    }

    /// Who carries packets.
    pub fn mode(&self) -> Result<Word, MapsError> {
        let agent = reader::mode_name(mode(self.agent()?.mode));
        let operator = self.operator()?.mode.map(reader::mode_name);
        Ok(Word {
            holds: operator.unwrap_or(agent),
            agent,
            operator,
        })
    }

    /// Which flows may skip the host's stack.
    pub fn fast_path(&self) -> Result<Word, MapsError> {
        let agent = fast_path_name(fast_path(self.agent()?.fast_path));
        let operator = self.operator()?.fast_path.map(fast_path_name);
        Ok(Word {
            holds: operator.unwrap_or(agent),
            agent,
            operator,
        })
    }

    fn get(&self, key: u32) -> Result<Config, MapsError> {
        self.0.get(&key, 0).map_err(|source| MapsError::Read {
            map: CONFIG.name,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for mode in [None, Some(Mode::Kernel), Some(Mode::Bpf)] {
            for fast_path in [
                None,
                Some(FastPath::Off),
                Some(FastPath::Permit),
                Some(FastPath::Direct),
            ] {
                let wanted = Override { mode, fast_path };
                let mut config = Config::UNWRITTEN;
                wanted.write(&mut config);
                assert_eq!(Override::of(&config), wanted);
                // And taken back without a trace.
                Override::default().write(&mut config);
                assert_eq!(config, Config::UNWRITTEN);
            }
        }
    }

    #[test]
    fn an_unknown_word_is_what_the_programs_make_of_it() {
        let config = Config {
            mode: 7,
            fast_path: 3,
            flags: CONFIG_FLAG_FAST_PATH,
            ..Config::UNWRITTEN
        };
        let expected = Override {
            mode: Some(Mode::Kernel),
            fast_path: Some(FastPath::Off),
        };
        assert_eq!(Override::of(&config), expected);
    }
}
