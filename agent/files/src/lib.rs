//! The files that the agent leaves for others, and for its own next start.
//!
//! Each is replaced as a whole: a reader sees the old text or the new one.

#![forbid(unsafe_code)]

pub mod docker_opts;
pub mod host;
pub mod last_lease;
pub mod last_store;
pub mod making;
#[cfg(any(test, feature = "fuzzing"))]
pub mod noise;
pub mod status;
pub mod subnet_env;

mod atomic;
mod lock;
mod read;

pub use lock::{InstanceLock, LockError};

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A file that cannot be read or written.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("read {path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}
