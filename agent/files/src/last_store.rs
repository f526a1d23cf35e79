//! Which store the node's peers are from, and how far that had come. After a restart another
//! store may answer, or the same one without its data: that it lacks a peer says nothing.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{FileError, atomic};

/// Name of the file in the instance's run directory: like what it speaks of, it does not outlive
/// the machine's next start.
const NAME: &str = "store";
/// A longer file is none of ours, bytes: a store's name has some ten.
const LONGEST: usize = 1024;

/// The file.
#[derive(Clone, Debug)]
pub struct LastStore(PathBuf);

/// What it says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Noted {
    /// The store's name.
    pub store: String,
    /// Its revision: a store of that name with a lower one has lost its data.
    #[serde(default)]
    pub revision: u64,
    /// Until when peers are kept that this store lacks, where an earlier one had some: seconds
    /// since the machine has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<u64>,
}

impl LastStore {
    /// The file of the agent with this run directory.
    pub fn new(instance_dir: &Path) -> Self {
        Self(instance_dir.join(NAME))
    }

    /// What is written, if that is anything.
    pub fn read(&self) -> Option<Noted> {
        let text = fs::read(&self.0).ok()?;
        if text.len() > LONGEST {
            return None;
        }
        let noted: Noted = serde_json::from_slice(&text).ok()?;
        (!noted.store.is_empty()).then_some(noted)
    }

    /// Writes it.
    pub fn write(&self, noted: &Noted) -> Result<(), FileError> {
        let text = serde_json::to_string(noted).map_err(|source| FileError::Write {
            path: self.0.clone(),
            source: source.into(),
        })?;
        atomic::replace(&self.0, &(text + "\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_rubbish_is_not() {
        let root = tempfile::tempdir().unwrap();
        let last = LastStore::new(root.path());
        assert_eq!(last.read(), None);
        for kept_until in [None, Some(0), Some(u64::MAX)] {
            let noted = Noted {
                store: "c6a0b7".to_owned(),
                revision: 7,
                kept_until,
            };
            last.write(&noted).unwrap();
            assert_eq!(last.read(), Some(noted));
        }
        let long = format!(r#"{{"store":"{}"}}"#, "a".repeat(LONGEST));
        for rubbish in [
            &b""[..],
            b"\xff",
            b"c6a0b7",
            br#"{"store":""}"#,
            br#"{"store":"a","revision":-1}"#,
            br#"{"store":"a","kept_until":-1}"#,
            long.as_bytes(),
        ] {
            fs::write(&last.0, rubbish).unwrap();
            assert_eq!(last.read(), None, "{rubbish:?}");
        }
    }
}
