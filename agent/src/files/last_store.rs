//! Which store the node's peers are from. After a restart another store may answer, which does
//! not know them yet: that it lacks one says nothing.

use std::fs;
use std::path::{Path, PathBuf};

use super::{FileError, atomic};

/// Name of the file in the instance's run directory: like what it speaks of, it does not outlive
/// the machine's next start.
const NAME: &str = "store";
/// Longer is no store's name, bytes.
const LONGEST: usize = 256;

/// The file.
#[derive(Clone, Debug)]
pub struct LastStore(PathBuf);

impl LastStore {
    /// The file of the agent with this run directory.
    pub fn new(instance_dir: &Path) -> Self {
        Self(instance_dir.join(NAME))
    }

    /// The store's name, if one is written.
    pub fn read(&self) -> Option<String> {
        let name = fs::read_to_string(&self.0).ok()?;
        (!name.is_empty() && name.len() <= LONGEST).then_some(name)
    }

    /// Writes the store's name.
    pub fn write(&self, name: &str) -> Result<(), FileError> {
        atomic::replace(&self.0, name)
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
        last.write("c6a0b7").unwrap();
        assert_eq!(last.read().as_deref(), Some("c6a0b7"));
        for rubbish in [&b""[..], b"\xff", &[b'a'; LONGEST + 1]] {
            fs::write(&last.0, rubbish).unwrap();
            assert_eq!(last.read(), None);
        }
    }
}
