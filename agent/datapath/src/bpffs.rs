//! The BPF file system that the pins live in.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use thiserror::Error;
use tracing::{info, warn};

/// Why there is no BPF file system.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// The folder cannot be looked at.
    #[error("no BPF file system at {path}: look at the folder")]
    Stat {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// Nothing is mounted there and we may not do it.
    #[error("no BPF file system at {path}, and mounting one there failed")]
    Mount {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// Something else is mounted there, on top of what we mounted.
    #[error("no BPF file system at {path}, not even after mounting one there")]
    Hidden {
        /// The folder.
        path: PathBuf,
    },
}

/// Makes sure that a BPF file system is mounted at `path`. What is mounted already is
/// used as it is: a second mount on top would hide the pins of everybody else.
pub fn ensure(path: &Path) -> Result<(), BpffsError> {
    if is_bpffs(path)? {
        return Ok(());
    }
    mount(
        Some("bpf"),
        path,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|source| BpffsError::Mount {
        path: path.to_owned(),
        source,
    })?;
    if !is_bpffs(path)? {
        return Err(BpffsError::Hidden {
            path: path.to_owned(),
        });
    }
    info!(path = %path.display(), "BPF file system mounted");
    if let Ok(false) = shares_mounts_with_init() {
        warn!(
            path = %path.display(),
            "the BPF file system was mounted in a mount namespace that is not the host's: its pins, and with \
             them the programs, go when that namespace goes; mount it on the host instead"
        );
    }
    Ok(())
}

/// Whether `path` is on a BPF file system (a plain folder answers everything but pins).
pub fn is_bpffs(path: &Path) -> Result<bool, BpffsError> {
    let answer = statfs(path).map_err(|source| BpffsError::Stat {
        path: path.to_owned(),
        source,
    })?;
    Ok(answer.filesystem_type() == BPF_FS_MAGIC)
}

fn shares_mounts_with_init() -> io::Result<bool> {
    Ok(std::fs::read_link("/proc/self/ns/mnt")? == std::fs::read_link("/proc/1/ns/mnt")?)
}
