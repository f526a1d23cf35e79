//! The conntrack settings without which a flow that BPF carried cannot come back to the stack.
//!
//! Conntrack does not see fast packets, so its picture of a TCP flow is frozen: windows
//! (`be_liberal`) and the order of an RST after two gigabytes (`ignore_invalid_rst`) have to let
//! the flow pass when it shows up again. Neither can be had for some flows alone: only ctnetlink
//! sets the first for one entry, and nothing the second. They are never reset: a flow that was
//! ever fast needs them for as long as it lives.
//!
//! The short timeouts of a flow with unanswered data have to let it rest as well. Those belong to
//! flows (`timeouts.rs`), and no setting is touched for them.

use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tracing::info;
use twill_core::sysctl::NET_FOLDERS;

const ESTABLISHED: &str = "nf_conntrack_tcp_timeout_established";
const UDP: &str = "nf_conntrack_udp_timeout";
const UDP_STREAM: &str = "nf_conntrack_udp_timeout_stream";
const SWITCHES: [&str; 2] = [
    "nf_conntrack_tcp_be_liberal",
    "nf_conntrack_tcp_ignore_invalid_rst",
];
/// What an earlier Twill set for every flow of the network namespace.
const FORMER: [&str; 2] = [
    "nf_conntrack_tcp_timeout_unacknowledged",
    "nf_conntrack_tcp_timeout_max_retrans",
];

/// The settings of a TCP flow's states, with `nft`'s names for them.
const STATES: [(&str, &str); 8] = [
    ("close", "nf_conntrack_tcp_timeout_close"),
    ("close_wait", "nf_conntrack_tcp_timeout_close_wait"),
    ("established", ESTABLISHED),
    ("fin_wait", "nf_conntrack_tcp_timeout_fin_wait"),
    ("last_ack", "nf_conntrack_tcp_timeout_last_ack"),
    ("syn_recv", "nf_conntrack_tcp_timeout_syn_recv"),
    ("syn_sent", "nf_conntrack_tcp_timeout_syn_sent"),
    ("time_wait", "nf_conntrack_tcp_timeout_time_wait"),
];

/// What the kernel starts with, seconds (`net/netfilter/nf_conntrack_proto_tcp.c`, v6.12).
const DEFAULT_TIMEOUT: u64 = 300;

/// Why TCP flows cannot have permits.
#[derive(Debug, Error)]
pub enum ConntrackError {
    /// The kernel's conntrack does not know a setting.
    #[error(
        "this kernel's conntrack has no {name}, without which a connection that was fast may hang \
         when it is reset; UDP may be fast"
    )]
    Unknown {
        /// The setting.
        name: &'static str,
    },
    /// A setting could not be read.
    #[error("read {}; is the module nf_conntrack loaded?", path.display())]
    Read {
        /// The setting.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A setting could not be written.
    #[error("set {} to {value}", path.display())]
    Write {
        /// The setting.
        path: PathBuf,
        /// What it should be.
        value: u64,
        /// Why.
        source: std::io::Error,
    },
    /// A setting is not a number.
    #[error("{} reads {text:?}; it should be a number", path.display())]
    NotANumber {
        /// The setting.
        path: PathBuf,
        /// What it reads.
        text: String,
    },
    /// A setting was written and reads differently.
    #[error("{} reads {found} after it was set to {value}", path.display())]
    NotKept {
        /// The setting.
        path: PathBuf,
        /// What it should be.
        value: u64,
        /// What it is.
        found: u64,
    },
}

/// The network namespace's conntrack settings.
#[derive(Clone, Debug)]
pub struct Conntrack {
    directory: PathBuf,
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            directory: NET_FOLDERS
                .iter()
                .map(|folder| Path::new(folder).join("netfilter"))
                .find(|folder| folder.is_dir())
                .unwrap_or_else(|| Path::new("/proc/sys/net/netfilter").to_owned()),
        }
    }
}

/// How long a TCP flow may rest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TcpTimes {
    /// Seconds by `nft`'s name of the state, as the settings have them.
    times: Vec<(&'static str, u64)>,
    /// What an established flow has, and one with unanswered data is to have.
    established: u64,
}

impl TcpTimes {
    /// Seconds by `nft`'s name of the state, as a flow needs them that BPF may carry: its
    /// unanswered data may have been answered where conntrack does not look.
    pub(super) fn at_rest(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let unanswered = ["retrans", "unack"].map(|state| (state, self.established));
        self.times.iter().copied().chain(unanswered)
    }
}

impl Conntrack {
    /// Puts the settings in force that TCP permits need, and reads each one back.
    pub fn assert(&self) -> Result<(), ConntrackError> {
        let value = 1;
        for name in SWITCHES {
            if !self.path(name).exists() {
                return Err(ConntrackError::Unknown { name });
            }
            let was = self.read(name)?;
            if was == value {
                continue;
            }
            self.write(name, value)?;
            let found = self.read(name)?;
            if found != value {
                return Err(ConntrackError::NotKept {
                    path: self.path(name),
                    value,
                    found,
                });
            }
            info!(setting = name, was, value, "conntrack setting changed");
        }
        Ok(())
    }

    /// How long the settings let a TCP flow rest, state by state.
    pub fn tcp_times(&self) -> Result<TcpTimes, ConntrackError> {
        let mut times = Vec::with_capacity(STATES.len());
        for (state, name) in STATES {
            times.push((state, self.read(name)?));
        }
        Ok(TcpTimes {
            established: self.read(ESTABLISHED)?,
            times,
        })
    }

    /// Those of an earlier Twill's settings that keep dead connections of the whole node: they
    /// are as long as an established flow's.
    pub fn former(&self) -> Vec<&'static str> {
        let Ok(established) = self.read(ESTABLISHED) else {
            return Vec::new();
        };
        let is_former = |name: &&str| {
            established != DEFAULT_TIMEOUT && self.read(name).is_ok_and(|read| read == established)
        };
        FORMER.into_iter().filter(is_former).collect()
    }

    /// Those of the four settings that are not the kernel's defaults, with what they read.
    pub fn changed(&self) -> Result<Vec<(&'static str, u64)>, ConntrackError> {
        let mut changed = Vec::new();
        for (name, default) in defaults() {
            let value = self.read(name)?;
            if value != default {
                changed.push((name, value));
            }
        }
        Ok(changed)
    }

    /// Puts the kernel's defaults back, whatever was there before Twill, and says of each setting
    /// how that went. Kills every flow that was ever fast and still lives.
    pub fn restore(&self) -> Vec<(&'static str, u64, Result<(), ConntrackError>)> {
        defaults()
            .map(|(name, value)| (name, value, self.write(name, value)))
            .collect()
    }

    /// The smallest timeout that applies to a flow which may be fast, seconds.
    pub fn smallest_timeout(&self) -> Result<u64, ConntrackError> {
        let mut smallest = u64::MAX;
        for name in [ESTABLISHED, UDP, UDP_STREAM] {
            smallest = smallest.min(self.read(name)?);
        }
        Ok(smallest)
    }

    /// Settings in a directory of its own, in which a TCP flow has so many seconds in every state.
    #[cfg(test)]
    pub(super) fn with_all(directory: &Path, seconds: u64) -> Self {
        for (_, name) in STATES {
            fs::write(directory.join(name), seconds.to_string()).unwrap();
        }
        Self {
            directory: directory.to_owned(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.directory).join(name)
    }

    fn read(&self, name: &str) -> Result<u64, ConntrackError> {
        let path = self.path(name);
        let text = fs::read_to_string(&path).map_err(|source| ConntrackError::Read {
            path: path.clone(),
            source,
        })?;
        let text = text.trim();
        text.parse()
            .map_err(|_not_a_number| ConntrackError::NotANumber {
                path,
                text: text.to_owned(),
            })
    }

    fn write(&self, name: &str, value: u64) -> Result<(), ConntrackError> {
        let path = self.path(name);
        fs::write(&path, value.to_string()).map_err(|source| ConntrackError::Write {
            path,
            value,
            source,
        })
    }
}

fn defaults() -> impl Iterator<Item = (&'static str, u64)> {
    let timeouts = FORMER.map(|name| (name, DEFAULT_TIMEOUT));
    SWITCHES.map(|name| (name, 0)).into_iter().chain(timeouts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(values: &[(&str, &str)]) -> (tempfile::TempDir, Conntrack) {
        let directory = tempfile::tempdir().unwrap();
        for (name, value) in values {
            fs::write(directory.path().join(name), value).unwrap();
        }
        let conntrack = Conntrack {
            directory: directory.path().to_owned(),
        };
        (directory, conntrack)
    }

    #[test]
    fn no_timeout_of_the_whole_node_is_touched() {
        let (_directory, conntrack) = settings(&[
            (ESTABLISHED, "86400\n"),
            (SWITCHES[0], "0\n"),
            (SWITCHES[1], "1\n"),
            (FORMER[0], "300\n"),
            (FORMER[1], "300\n"),
        ]);
        conntrack.assert().unwrap();
        let values = SWITCHES
            .iter()
            .chain(&FORMER)
            .map(|name| conntrack.read(name).unwrap());
        assert_eq!(values.collect::<Vec<_>>(), [1, 1, 300, 300]);
        assert!(conntrack.former().is_empty());
    }

    #[test]
    fn what_an_earlier_twill_set_is_known_by_its_value() {
        let (_directory, conntrack) = settings(&[
            (ESTABLISHED, "86400\n"),
            (FORMER[0], "86400\n"),
            (FORMER[1], "600\n"),
        ]);
        assert_eq!(conntrack.former(), [FORMER[0]]);
    }

    #[test]
    fn a_flow_at_rest_has_what_the_settings_say_and_its_unanswered_data_no_less() {
        let directory = tempfile::tempdir().unwrap();
        let conntrack = Conntrack::with_all(directory.path(), 60);
        fs::write(directory.path().join(ESTABLISHED), "86400\n").unwrap();
        let times = conntrack.tcp_times().unwrap();
        let at_rest: Vec<_> = times.at_rest().collect();
        assert_eq!(at_rest.len(), 10);
        for (state, seconds) in at_rest {
            let long = ["established", "retrans", "unack"].contains(&state);
            assert_eq!(seconds, if long { 86_400 } else { 60 }, "{state}");
        }
    }

    #[test]
    fn defaults_are_put_back_one_by_one() {
        let (directory, conntrack) =
            settings(&[(SWITCHES[0], "1"), (SWITCHES[1], "1"), (FORMER[0], "86400")]);
        fs::create_dir(directory.path().join(FORMER[1])).unwrap();
        let restored = conntrack.restore();
        let failed: Vec<_> = restored
            .iter()
            .filter(|(_, _, result)| result.is_err())
            .map(|(name, _, _)| *name)
            .collect();
        assert_eq!(failed, [FORMER[1]], "and the others are written");
        let read = |name| conntrack.read(name).unwrap();
        assert_eq!(
            [read(SWITCHES[0]), read(SWITCHES[1]), read(FORMER[0])],
            [0, 0, 300]
        );
    }

    #[test]
    fn a_setting_that_is_missing_is_named() {
        let (_directory, conntrack) = settings(&[(ESTABLISHED, "86400\n")]);
        let error = conntrack.assert().unwrap_err().to_string();
        assert!(error.contains(SWITCHES[0]), "{error}");
    }

    #[test]
    fn the_smallest_timeout_counts() {
        let (_directory, conntrack) = settings(&[
            (ESTABLISHED, "86400\n"),
            (UDP, "30\n"),
            (UDP_STREAM, "120\n"),
        ]);
        assert_eq!(conntrack.smallest_timeout().unwrap(), 30);
    }
}
