//! Removing what earlier runs left that were killed before they could clean up.
//!
//! Ours are the names `tw-<pid>-…`; a run is dead when no process has its pid.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Once;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::{directory, netns};

/// Where agents keep their pins, a directory for each instance.
pub const PINS: &str = "/sys/fs/bpf/twill";

static ONCE: Once = Once::new();

/// Sweeps once in the life of this process.
pub(crate) fn once() {
    ONCE.call_once(|| {
        if let Err(error) = leftovers() {
            netns::report(&error);
        }
    });
}

/// Removes namespaces, pins and directories of runs whose process is gone.
pub fn leftovers() -> Result<()> {
    for name in netns::names_with("tw-")? {
        if !is_dead(&name) {
            continue;
        }
        let deleted = netns::delete(&name);
        // Another run may have swept it at the same time.
        if netns::names_with(&name)?.contains(&name) {
            deleted?;
        }
    }
    for parent in [PINS, directory::PARENT].map(Path::new) {
        remove_directories(parent, is_dead)?;
    }
    Ok(())
}

/// Removes the directories directly under `parent` whose name `chosen` accepts.
pub fn remove_directories(parent: &Path, chosen: impl Fn(&str) -> bool) -> Result<()> {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list {}", parent.display())),
    };
    for entry in entries {
        let entry = entry?;
        if chosen(&entry.file_name().to_string_lossy()) && entry.file_type()?.is_dir() {
            let path = entry.path();
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                // Removed, by us or by another run at the same time.
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// Whether the name is of our pattern and the process that it names is gone.
fn is_dead(name: &str) -> bool {
    owner(name).is_some_and(|pid| kill(pid, None) == Err(Errno::ESRCH))
}

/// The process in a name of the pattern `tw-<pid>-…`.
fn owner(name: &str) -> Option<Pid> {
    let (pid, _) = name.strip_prefix("tw-")?.split_once('-')?;
    let is_number = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    let pid: i32 = pid.parse().ok().filter(|_| is_number)?;
    // Zero and one mean something else to kill(2) than a run of ours.
    (pid > 1).then(|| Pid::from_raw(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_pattern_have_an_owner() {
        assert_eq!(owner("tw-1234-0-a"), Some(Pid::from_raw(1234)));
        for other in [
            "tw-1234",
            "tw--1-a",
            "tw-+5-a",
            "tw-x-a",
            "twill-demo-a",
            "xtw-12-a",
            "tw-0-a",
            "tw-1-a",
            "tw-99999999999-a",
        ] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn a_living_process_owns_its_names() {
        assert!(!is_dead(&format!("tw-{}-0-a", std::process::id())));
        // Above the largest pid that Linux gives (PID_MAX_LIMIT, 4 Mi).
        assert!(is_dead("tw-2000000000-0-a"));
    }
}
