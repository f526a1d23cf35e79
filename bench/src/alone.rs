//! One bench at a time on a machine: two would measure each other.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Root's alone, as everything under `/run`.
const LOCK: &str = "/run/twill-bench.lock";

/// The right to measure, until dropped.
#[derive(Debug)]
pub struct Alone {
    _lock: Flock<File>,
}

/// Claims this machine, or says who has it.
pub fn claim() -> Result<Alone> {
    claim_at(Path::new(LOCK))
}

fn claim_at(path: &Path) -> Result<Alone> {
    let open = || format!("open {}", path.display());
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(open)?;
    let mut holder = String::new();
    file.read_to_string(&mut holder).with_context(open)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // Only for the sentence below.
            lock.set_len(0).with_context(open)?;
            lock.rewind().with_context(open)?;
            write!(lock, "{}", std::process::id()).with_context(open)?;
            Ok(Alone { _lock: lock })
        }
        Err((_, Errno::EWOULDBLOCK)) => bail!(
            "another bench is running on this machine (process {holder}): two would measure \
             each other, so wait for its end"
        ),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_was_first() {
        let path = std::env::temp_dir().join(format!("twill-bench-{}.lock", std::process::id()));
        // Twice: the second time the file is not empty.
        for _ in 0..2 {
            let first = claim_at(&path).unwrap();
            let error = claim_at(&path).unwrap_err().to_string();
            let holder = format!("(process {})", std::process::id());
            assert!(error.contains(&holder), "{error}");
            drop(first);
        }
        std::fs::remove_file(&path).unwrap();
    }
}
