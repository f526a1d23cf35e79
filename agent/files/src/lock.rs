//! One agent for each instance name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

use super::atomic;

/// Held as long as the agent lives; the kernel lets go of it when the process ends.
#[derive(Debug)]
pub struct InstanceLock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

/// Why the lock cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another agent holds it.
    #[error(
        "another twilld (process {holder}) holds {path}: give this one an --instance name of its own"
    )]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// Its process identity.
        holder: String,
    },
    /// The file cannot be used.
    #[error("lock {path}")]
    File {
        /// The lock's file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl InstanceLock {
    /// Takes the lock in the instance's run directory, which is made if it is not there.
    pub fn take(directory: &Path) -> Result<Self, LockError> {
        let path = directory.join("lock");
        let failed = |source| LockError::File {
            path: path.clone(),
            source,
        };
        atomic::make_directory(directory).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let mut holder = String::new();
        file.read_to_string(&mut holder).map_err(failed)?;
        let mut locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => locked,
            Err((_, Errno::EWOULDBLOCK)) => {
                let holder = holder.trim().to_owned();
                return Err(LockError::Held { path, holder });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        let written = locked
            .set_len(0)
            .and_then(|()| locked.rewind())
            .and_then(|()| writeln!(locked, "{}", std::process::id()));
        written.map_err(failed)?;
        Ok(Self(locked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_learns_who_was_first() {
        let root = tempfile::tempdir().unwrap();
        let first = InstanceLock::take(root.path()).unwrap();
        let error = InstanceLock::take(root.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        assert!(text.contains("--instance"), "{text}");
        drop(first);
        InstanceLock::take(root.path()).unwrap();
    }
}
