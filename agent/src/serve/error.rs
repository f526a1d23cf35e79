//! What can go wrong with the server as a whole.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use twill_core::config::ConfigError;

/// Why the server does not start, or stopped.
#[derive(Debug, Error)]
pub enum Error {
    /// The network config's file.
    #[error("read the network config {path:?} (--network-config)")]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The network config's content.
    #[error("network config {path:?}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: ConfigError,
    },
    /// The data directory.
    #[error("prepare the data directory {path:?} (--data-dir)")]
    DataDir {
        /// The directory, or the file in it.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another server has the data directory.
    #[error("data directory {path:?} is in use by another lease server; give each its own")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The store's file cannot be opened.
    #[error("open the lease store {path:?}; restore it from a copy, or move it away to start anew")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<redb::Error>,
    },
    /// The store's file is damaged so that it cannot be read.
    #[error(
        "lease store {path:?} is damaged ({what}); restore it from a copy, or move it away to \
         start anew: nodes that run take their subnets again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found first.
        what: String,
    },
    /// The store's file is not ours, or of another version.
    #[error("{path:?} is no lease store: {key} is {value}, {right}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was looked at.
        key: &'static str,
        /// What is there.
        value: String,
        /// What would be right.
        right: &'static str,
    },
    /// A lease in the store's file cannot be read.
    #[error(
        "lease store {path:?}: lease {key:?} is {value:?}, which is not one; \
         restore the store from a copy"
    )]
    BadLease {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value, shortened.
        value: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store's file cannot be written.
    #[error("write the lease store {path:?}; nothing that was acknowledged is lost")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<redb::Error>,
    },
    /// The address.
    #[error("listen on {address} (--listen)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The HTTP server.
    #[error("serve HTTP")]
    Serve(#[source] io::Error),
    /// A task of the server ended by a panic.
    #[error("the server's {task} task broke off")]
    Task {
        /// Which.
        task: &'static str,
        /// The cause.
        source: tokio::task::JoinError,
    },
}

impl Error {
    /// Whether the disk is full, or what one may use of it.
    pub(super) fn is_full(&self) -> bool {
        let Self::Write { source, .. } = self else {
            return false;
        };
        matches!(&**source, redb::Error::Io(error) if matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        ))
    }
}
