//! What was handed to delegates, kept for DEL: a file for each container, with the delegate's
//! config as it was. The folder, the names and the text are flannel's, so pods that flannel's
//! plugin attached are detached by ours, and the other way round.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::{Code, PluginError};
use crate::protocol;

/// Of the folder, and of a file: a delegate's config may hold secrets.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The folder of a node's state files.
pub(crate) struct State<'a>(pub(crate) &'a Path);

impl State<'_> {
    /// Keeps a delegate's config, on disk before this returns.
    pub(crate) fn save(&self, container: &str, text: &[u8]) -> Result<(), PluginError> {
        let file = self.file(container)?;
        let save = || -> io::Result<()> {
            DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(self.0)?;
            let mut opened = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(FILE_MODE)
                .open(&file)?;
            // One that was there before keeps its mode otherwise.
            opened.set_permissions(Permissions::from_mode(FILE_MODE))?;
            opened.write_all(text)?;
            opened.sync_all()
        };
        save().map_err(|error| failed("write", &file, &error))
    }

    /// What was kept of a container. `None` if nothing was.
    pub(crate) fn load(&self, container: &str) -> Result<Option<Vec<u8>>, PluginError> {
        let file = self.file(container)?;
        match fs::read(&file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &file, &error)),
        }
    }

    /// Forgets a container.
    pub(crate) fn remove(&self, container: &str) -> Result<(), PluginError> {
        let file = self.file(container)?;
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &file, &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Every container of which something is kept. Files that name none are somebody else's.
    pub(crate) fn containers(&self) -> Result<Vec<String>, PluginError> {
        let entries = match fs::read_dir(self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| failed("list", self.0, &error))?,
        };
        let mut containers = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", self.0, &error))?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if let (true, Ok(name)) = (is_file, entry.file_name().into_string())
                && protocol::is_container(&name).is_ok()
            {
                containers.push(name);
            }
        }
        containers.sort();
        Ok(containers)
    }

    /// The file of a container, whose name was checked; it is checked again where it is used.
    fn file(&self, container: &str) -> Result<PathBuf, PluginError> {
        protocol::is_container(container)?;
        Ok(self.0.join(container))
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> PluginError {
    PluginError::new(Code::Io, format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_for_root_alone_and_there_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let state = State(&path);
        assert_eq!(state.load("c1").unwrap(), None);
        assert!(state.containers().unwrap().is_empty());
        state.save("c1", b"{}").unwrap();
        state.save("c1", b"{\"x\":1}").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("c1"))), (0o700, 0o600));
        assert_eq!(state.load("c1").unwrap().unwrap(), b"{\"x\":1}");
        fs::create_dir(path.join("results")).unwrap();
        fs::write(path.join(".swap"), "").unwrap();
        assert_eq!(state.containers().unwrap(), ["c1"]);
        state.remove("c1").unwrap();
        state.remove("c1").unwrap();
        assert_eq!(state.load("c1").unwrap(), None);
    }

    #[test]
    fn a_container_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let state = State(folder.path());
        assert!(state.save("../c1", b"{}").is_err());
        assert!(state.load("/etc/passwd").is_err());
    }
}
