//! Which store the node's peers are from, and how far that had come. After a restart another
//! store may answer, or the same one without its data: that it lacks a peer says nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use twill_core::leases::{Checkpoint, Position};

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
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Where the store's changes had come to.
    position: String,
    /// Until when peers are kept that this store lacks, where an earlier one had some: seconds
    /// since the machine has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept_until: Option<u64>,
}

/// As it was written while a position was the name of a store and a number.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Earlier {
    store: String,
    #[serde(default)]
    revision: u64,
    #[serde(default)]
    kept_until: Option<u64>,
}

impl LastStore {
    /// The file of the agent with this run directory.
    pub fn new(instance_dir: &Path) -> Self {
        Self(instance_dir.join(NAME))
    }

    /// What is written, if that is anything.
    pub fn read(&self) -> Option<Checkpoint> {
        let text = fs::read(&self.0).ok()?;
        if text.len() > LONGEST {
            return None;
        }
        let Written {
            position,
            kept_until,
        } = serde_json::from_slice(&text)
            .ok()
            .or_else(|| earlier(&text))?;
        (!position.is_empty()).then(|| Checkpoint {
            position: Position::new(position),
            kept_until: kept_until.map(Duration::from_secs),
        })
    }

    /// Writes it.
    pub fn write(&self, checkpoint: &Checkpoint) -> Result<(), FileError> {
        let written = Written {
            position: checkpoint.position.as_str().to_owned(),
            kept_until: checkpoint.kept_until.map(|until| until.as_secs()),
        };
        let text = serde_json::to_string(&written).map_err(|source| FileError::Write {
            path: self.0.clone(),
            source: source.into(),
        })?;
        atomic::replace(&self.0, &(text + "\n"))
    }
}

fn earlier(text: &[u8]) -> Option<Written> {
    let Earlier {
        store,
        revision,
        kept_until,
    } = serde_json::from_slice(text).ok()?;
    (!store.is_empty()).then(|| Written {
        position: format!("{store}@{revision}"),
        kept_until,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(position: &str, kept_until: Option<u64>) -> Checkpoint {
        Checkpoint {
            position: Position::new(position),
            kept_until: kept_until.map(Duration::from_secs),
        }
    }

    #[test]
    fn what_was_written_is_read_and_rubbish_is_not() {
        let root = tempfile::tempdir().unwrap();
        let last = LastStore::new(root.path());
        assert_eq!(last.read(), None);
        for kept_until in [None, Some(0), Some(u64::MAX)] {
            let written = checkpoint("c6a0b7@7", kept_until);
            last.write(&written).unwrap();
            assert_eq!(last.read(), Some(written));
        }
        let long = format!(r#"{{"position":"{}"}}"#, "a".repeat(LONGEST));
        for rubbish in [
            &b""[..],
            b"\xff",
            b"c6a0b7",
            br#"{"position":""}"#,
            br#"{"position":"a","kept_until":-1}"#,
            br#"{"store":""}"#,
            br#"{"store":"a","revision":-1}"#,
            br#"{"store":"a","kept_until":-1}"#,
            long.as_bytes(),
        ] {
            fs::write(&last.0, rubbish).unwrap();
            assert_eq!(last.read(), None, "{rubbish:?}");
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_is_read() {
        let root = tempfile::tempdir().unwrap();
        let last = LastStore::new(root.path());
        for (text, expected) in [
            (
                r#"{"store":"c6a0b7","revision":7}"#,
                checkpoint("c6a0b7@7", None),
            ),
            (r#"{"store":"c6a0b7"}"#, checkpoint("c6a0b7@0", None)),
            (
                r#"{"store":"c6a0b7","revision":7,"kept_until":9}"#,
                checkpoint("c6a0b7@7", Some(9)),
            ),
        ] {
            fs::write(&last.0, text).unwrap();
            assert_eq!(last.read(), Some(expected));
        }
    }
}
