//! What can go wrong between an agent and etcd.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use twill_core::allocate::AllocateError;
use twill_core::config::ConfigError;
use twill_core::subnet::Subnet;

/// Why etcd did not give what was asked for.
#[derive(Debug, Error)]
pub enum Error {
    /// The address of a member.
    #[error("--etcd-endpoints has {value:?}: {why}; write it as http://192.0.2.1:2379")]
    Endpoint {
        /// The value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A key's beginning.
    #[error(
        "--etcd-prefix is {value:?}, which no key can begin with; write it as /coreos.com/network"
    )]
    Prefix {
        /// The value.
        value: String,
    },
    /// A file of TLS.
    #[error("read {path} for TLS with etcd")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No member answers; each with its reason.
    #[error("{attempt}: no member of etcd answers: {reasons}")]
    Away {
        /// What was asked for.
        attempt: &'static str,
        /// Why, for each endpoint.
        reasons: String,
    },
    /// A call that failed.
    #[error("{attempt} in etcd at {endpoint}: {}", said(.source))]
    Call {
        /// What was asked for.
        attempt: &'static str,
        /// Where.
        endpoint: String,
        /// The cause.
        source: Box<etcd_client::Error>,
    },
    /// A call without an answer.
    #[error("{attempt} in etcd at {endpoint}: no answer in {limit:?}")]
    Silent {
        /// What was asked for.
        attempt: &'static str,
        /// Where.
        endpoint: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Flannel's message.
    #[error(
        "flannel config not found in etcd store. Did you create your config using etcdv3 API? \
         (there is no key {key})"
    )]
    NoConfig {
        /// The key.
        key: String,
    },
    /// The network config is wrong.
    #[error("the network config in etcd")]
    Config(#[from] ConfigError),
    /// No subnet is left.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// Attributes that cannot be written.
    #[error("write the lease's attributes as JSON")]
    Attributes(#[source] serde_json::Error),
    /// The lease is another node's now.
    #[error("subnet {subnet} is not ours any more: {why}")]
    HeldByAnother {
        /// The subnet.
        subnet: Subnet,
        /// Who has it.
        why: String,
    },
    /// The history from the revision that was reached is not kept.
    #[error(
        "etcd has compacted its history up to revision {compacted}; the leases are listed again"
    )]
    Compacted {
        /// The revision that is the first kept.
        compacted: i64,
    },
    /// Not the store that is known: its history is another one.
    #[error("etcd is another cluster than before, or was set back; the leases are listed again")]
    Replaced,
    /// The watch was ended by etcd.
    #[error("etcd at {endpoint} ended the watch: {why}")]
    WatchEnded {
        /// Where.
        endpoint: String,
        /// Its reason.
        why: String,
    },
    /// What flannel's keys cannot tell apart.
    #[error("subnet {subnet} had two keys and one is gone; the leases are listed again")]
    TwoKeys {
        /// The subnet.
        subnet: Subnet,
    },
}

/// A gRPC status in one line, without its metadata.
pub(super) fn said(error: &etcd_client::Error) -> String {
    use std::error::Error as _;
    let etcd_client::Error::GRpcStatus(status) = error else {
        return error.to_string();
    };
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = status.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
