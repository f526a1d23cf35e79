//! What can go wrong between an agent and etcd.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use twill_core::allocate::AllocateError;
use twill_core::condition::StoreFailure;
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
    #[error("{attempt}: no member of etcd answers: {}", joined(.reasons))]
    Away {
        /// What was asked for.
        attempt: &'static str,
        /// Why, for each endpoint.
        reasons: Vec<Error>,
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

impl Error {
    /// Who can mend it. Of several members, one that says what is wrong counts.
    pub(super) fn cause(&self) -> StoreFailure {
        match self {
            Self::Away { reasons, .. } => reasons
                .iter()
                .map(Self::cause)
                .max()
                .unwrap_or(StoreFailure::Unreachable),
            Self::Silent { .. } => StoreFailure::Unreachable,
            Self::Call { source, .. } => {
                if let etcd_client::Error::GRpcStatus(status) = &**source {
                    status_cause(status.code().into(), status.message())
                } else {
                    // What the client says of its connection.
                    StoreFailure::Unreachable
                }
            }
            Self::Endpoint { .. }
            | Self::Prefix { .. }
            | Self::File { .. }
            | Self::NoConfig { .. }
            | Self::Config(_)
            | Self::Allocate(_)
            | Self::Attributes(_)
            | Self::HeldByAnother { .. }
            | Self::Compacted { .. }
            | Self::Replaced
            | Self::WatchEnded { .. }
            | Self::TwoKeys { .. } => StoreFailure::Refused,
        }
    }
}

/// Codes of gRPC (`google/rpc/code.proto`).
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// What etcd says, by its code where it has one for that and else by its words
/// (`api/v3rpc/rpctypes/error.go`, v3.4 to v3.6).
fn status_cause(code: i32, words: &str) -> StoreFailure {
    let say = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    match code {
        code::UNAUTHENTICATED => StoreFailure::Unauthenticated,
        code::INVALID_ARGUMENT if say(&["authentication failed", "user name"]) => {
            StoreFailure::Unauthenticated
        }
        code::PERMISSION_DENIED => StoreFailure::Denied,
        code::RESOURCE_EXHAUSTED if say(&["space exceeded"]) => StoreFailure::Full,
        code::CANCELLED | code::UNKNOWN | code::DEADLINE_EXCEEDED | code::UNAVAILABLE => {
            StoreFailure::Unreachable
        }
        _ => StoreFailure::Refused,
    }
}

fn joined(reasons: &[Error]) -> String {
    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    reasons.join("; ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_mend_it_is_told_by_what_etcd_says() {
        for (code, words, cause) in [
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                StoreFailure::Unauthenticated,
            ),
            (
                3,
                "etcdserver: user name is empty",
                StoreFailure::Unauthenticated,
            ),
            (3, "etcdserver: key is not provided", StoreFailure::Refused),
            (
                16,
                "etcdserver: invalid auth token",
                StoreFailure::Unauthenticated,
            ),
            (7, "etcdserver: permission denied", StoreFailure::Denied),
            (
                8,
                "etcdserver: mvcc: database space exceeded",
                StoreFailure::Full,
            ),
            (8, "etcdserver: too many requests", StoreFailure::Refused),
            (14, "etcdserver: leader changed", StoreFailure::Unreachable),
        ] {
            assert_eq!(status_cause(code, words), cause, "{words}");
        }
    }

    #[test]
    fn a_member_that_says_what_is_wrong_counts_before_one_that_is_away() {
        let silent = || Error::Silent {
            attempt: "connect",
            endpoint: "http://192.0.2.1:2379".to_owned(),
            limit: Duration::from_secs(1),
        };
        let away = |reasons| Error::Away {
            attempt: "renew",
            reasons,
        };
        assert_eq!(away(vec![silent()]).cause(), StoreFailure::Unreachable);
        let key = || Error::NoConfig {
            key: "x".to_owned(),
        };
        let both = away(vec![silent(), key(), silent()]);
        assert_eq!(both.cause(), StoreFailure::Refused);
        let text = both.to_string();
        assert!(
            text.contains("; ") && text.contains("no answer in 1s"),
            "{text}"
        );
    }
}
