//! The node's last lease, kept over a boot: for a start without the lease store.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use twill_core::config::{ConfigError, NetworkConfig};
use twill_core::lease::Lease;

use super::{FileError, atomic, read};

/// What a start without the store has to know.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LastLease {
    /// Where the store is, for people and for comparing: another store has other leases.
    pub store: String,
    /// The network config, as the store has it.
    pub config: String,
    /// The lease, as it was published last.
    pub lease: Lease,
    /// When it ends if nobody renews it, seconds since 1970; `None` for a reservation.
    pub until: Option<u64>,
    /// When this was written, seconds since 1970.
    #[serde(default)]
    pub since: u64,
}

/// Why the last lease is of no use.
#[derive(Debug, Error)]
pub enum LastLeaseError {
    /// It is another store's.
    #[error("it is of the store {found:?}, and this start is told of {wanted:?}")]
    OtherStore {
        /// The one that it is of.
        found: String,
        /// The one that is asked.
        wanted: String,
    },
    /// Its time is over.
    #[error("it ended {ago:?} ago, and may be another node's by now")]
    Ended {
        /// How long ago.
        ago: Duration,
    },
    /// The clock says that it was not written yet: a machine without a battery, for one, that
    /// has just booted. Whether its time is over, nobody knows.
    #[error("by the clock of this node it will be written in {ahead:?}; set the clock")]
    Clock {
        /// How far the clock is behind, at least.
        ahead: Duration,
    },
    /// Its network config cannot be used.
    #[error("its network config cannot be used")]
    Config(#[from] ConfigError),
    /// The config has no place for it.
    #[error("{subnet} has no place in its network config")]
    Subnet {
        /// The subnet.
        subnet: twill_core::subnet::Subnet,
    },
}

impl LastLease {
    /// The network config, if a start that is told of this store may use the lease at this time.
    pub fn usable(&self, store: &str, now: SystemTime) -> Result<NetworkConfig, LastLeaseError> {
        if self.store != store {
            return Err(LastLeaseError::OtherStore {
                found: self.store.clone(),
                wanted: store.to_owned(),
            });
        }
        // A clock that does not say when it is says that it is long ago.
        let now = seconds(now);
        if let Some(until) = self.until
            && until <= now
        {
            let ago = Duration::from_secs(now - until);
            return Err(LastLeaseError::Ended { ago });
        }
        // What has no end needs no clock.
        if self.until.is_some() && now < self.since {
            let ahead = Duration::from_secs(self.since - now);
            return Err(LastLeaseError::Clock { ahead });
        }
        let config = NetworkConfig::parse(&self.config)?;
        let subnet = self.lease.subnet;
        if !config.fits(subnet) {
            return Err(LastLeaseError::Subnet { subnet });
        }
        Ok(config)
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Reads it; `None` if there is none.
pub fn read(path: &Path) -> Result<Option<LastLease>, FileError> {
    read::if_there(path, parse)
}

/// Writes it.
pub fn write(path: &Path, last: &LastLease) -> Result<(), FileError> {
    let text = serde_json::to_string(last).map_err(|source| FileError::Write {
        path: path.to_owned(),
        source: source.into(),
    })?;
    atomic::replace(path, &(text + "\n"))
}

/// Removes it, if there is one.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FileError::Write {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Reads its text.
pub(crate) fn parse(text: &[u8]) -> Result<LastLease, serde_json::Error> {
    serde_json::from_slice(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn last(until: Option<u64>) -> LastLease {
        LastLease {
            store: "etcd".to_owned(),
            config: r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#.to_owned(),
            lease: serde_json::from_str(
                r#"{"subnet":"10.244.3.0/24","attrs":{"PublicIP":"192.0.2.3"}}"#,
            )
            .unwrap(),
            until,
            since: NOW - 60,
        }
    }

    fn usable(last: &LastLease) -> Result<NetworkConfig, LastLeaseError> {
        last.usable("etcd", SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
    }

    #[test]
    fn what_is_written_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("default/lease.json");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, &last(Some(NOW))).unwrap();
        assert_eq!(read(&path).unwrap(), Some(last(Some(NOW))));
        for rubbish in ["", "[]", "{}", "{\"store\":1}"] {
            fs::write(&path, rubbish).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("lease.json"), "{error}");
        }
    }

    #[test]
    fn a_lease_is_used_for_its_time_and_a_reservation_for_ever() {
        assert!(usable(&last(Some(NOW + 1))).is_ok());
        assert!(usable(&last(None)).is_ok());
        let ended = usable(&last(Some(NOW)));
        assert!(matches!(ended, Err(LastLeaseError::Ended { .. })));
    }

    #[test]
    fn a_clock_that_is_behind_the_lease_does_not_say_when_it_ends() {
        for clock in [0, NOW - 61] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(clock);
            let refused = last(Some(NOW + 1)).usable("etcd", now);
            assert!(matches!(refused, Err(LastLeaseError::Clock { .. })));
            assert!(last(None).usable("etcd", now).is_ok());
        }
    }

    #[test]
    fn what_does_not_go_together_is_not_used() {
        let mut other = last(None);
        other.store = "another".to_owned();
        let refused = usable(&other);
        assert!(matches!(refused, Err(LastLeaseError::OtherStore { .. })));
        let mut odd = last(None);
        odd.config = odd.config.replace("10.244", "10.245");
        let refused = usable(&odd);
        assert!(matches!(refused, Err(LastLeaseError::Subnet { .. })));
        odd.config = "rubbish".to_owned();
        assert!(matches!(usable(&odd), Err(LastLeaseError::Config(_))));
    }
}
