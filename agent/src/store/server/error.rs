//! What can go wrong between an agent and its lease server.

use reqwest::StatusCode;
use thiserror::Error;

use twill_core::config::ConfigError;
use twill_core::subnet::Subnet;

use super::answer::AnswerError;

/// Why the lease server did not give what was asked for.
#[derive(Debug, Error)]
pub enum Error {
    /// The address of the server.
    #[error("--lease-server is {value:?}: {why}; write it as http://192.0.2.1:7890")]
    Url {
        /// The value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// The HTTP client cannot be made.
    #[error("make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// No answer, or half of one.
    #[error("{attempt} at {url}")]
    Request {
        /// What was asked for.
        attempt: &'static str,
        /// Where.
        url: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The server stayed silent.
    #[error("{attempt} at {url}: no word for {seconds} s")]
    Silent {
        /// What was asked for.
        attempt: &'static str,
        /// Where.
        url: String,
        /// How long.
        seconds: u64,
    },
    /// An answer that no lease server gives.
    #[error("{attempt} at {url}: the answer is not a lease server's")]
    Unreadable {
        /// What was asked for.
        attempt: &'static str,
        /// Where.
        url: String,
        /// What is wrong with it.
        source: AnswerError,
    },
    /// A status other than 200, and no word of a lease server with it.
    #[error("{attempt} at {url}: status {status}, and not from a lease server")]
    Status {
        /// What was asked for.
        attempt: &'static str,
        /// Where.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// The server said no.
    #[error("{attempt}: the lease server refuses with {status}: {error}")]
    Refused {
        /// What was asked for.
        attempt: &'static str,
        /// The status.
        status: StatusCode,
        /// The server's sentence.
        error: String,
        /// What the sentence is about.
        key: Option<String>,
        /// What that says.
        value: Option<String>,
    },
    /// The server's network config is wrong.
    #[error("the lease server's network config")]
    Config(#[from] ConfigError),
    /// The lease is gone.
    #[error("subnet {subnet} is not leased any more")]
    NotHeld {
        /// The subnet.
        subnet: Subnet,
    },
    /// The lease is another node's now.
    #[error("subnet {subnet} is not ours any more: {why}")]
    HeldByAnother {
        /// The subnet.
        subnet: Subnet,
        /// What the server said.
        why: String,
    },
    /// The revision to go on from is not kept; a list is needed.
    #[error("the lease server asks to list again: {why}")]
    Gone {
        /// What the server said.
        why: String,
    },
}
