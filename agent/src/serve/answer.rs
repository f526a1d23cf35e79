//! Errors as they are answered: JSON that says what is wrong and what would be right.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::table::Refusal;
use super::view::Gone;

/// How much of a wrong value is sent back, in characters.
const SHOWN: usize = 200;

/// An error's status and body.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct ErrorAnswer {
    #[serde(skip)]
    pub(super) status: StatusCode,
    /// For people.
    pub(super) error: String,
    /// For programs: one of a closed set.
    pub(super) reason: Reason,
    /// What is wrong, if it has a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    /// What it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
}

/// What programs may go by.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    /// Ask otherwise.
    Invalid,
    /// There is no such lease.
    NotHeld,
    /// Somebody else has it.
    HeldByAnother,
    /// The address has another lease.
    HoldsAnother,
    /// Nothing is free.
    OutOfSubnets,
    /// List again.
    Gone,
    /// The server cannot; ask later.
    Unavailable,
}

impl ErrorAnswer {
    /// Something in the request is wrong.
    pub(super) fn invalid(key: &str, value: &str, right: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: format!("{key}: {right}"),
            reason: Reason::Invalid,
            key: Some(key.to_owned()),
            value: Some(value.chars().take(SHOWN).collect()),
        }
    }

    /// The server stops, or its store failed.
    pub(super) fn unavailable() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            error: "the lease server cannot store anything now; ask again later".to_owned(),
            reason: Reason::Unavailable,
            key: None,
            value: None,
        }
    }

    /// The revision to go on from is not kept.
    pub(super) fn gone(gone: Gone, revision: u64) -> Self {
        let why = match gone {
            Gone::TooOld => "the changes since then are no longer kept",
            Gone::Future => "this store never had that revision",
        };
        Self::list_again("revision", &revision.to_string(), why)
    }

    /// The revision is of another store.
    pub(super) fn replaced(store: &str) -> Self {
        Self::list_again("store", store, "this server has another store")
    }

    fn list_again(key: &str, value: &str, why: &str) -> Self {
        Self {
            status: StatusCode::GONE,
            reason: Reason::Gone,
            ..Self::invalid(key, value, &format!("{why}; list again"))
        }
    }
}

impl From<Refusal> for ErrorAnswer {
    fn from(refusal: Refusal) -> Self {
        let error = refusal.to_string();
        let (status, reason, key, value) = match refusal {
            Refusal::NotHeld { subnet } => (
                StatusCode::NOT_FOUND,
                Reason::NotHeld,
                "subnet",
                subnet.to_string(),
            ),
            Refusal::HeldByAnother { subnet, .. } => (
                StatusCode::CONFLICT,
                Reason::HeldByAnother,
                "subnet",
                subnet.to_string(),
            ),
            Refusal::HoldsAnother { public_ip, .. } => (
                StatusCode::CONFLICT,
                Reason::HoldsAnother,
                "PublicIP",
                public_ip.to_string(),
            ),
            Refusal::NotStored { full, .. } => {
                return Self {
                    status: if full {
                        StatusCode::INSUFFICIENT_STORAGE
                    } else {
                        StatusCode::SERVICE_UNAVAILABLE
                    },
                    error,
                    reason: Reason::Unavailable,
                    key: None,
                    value: None,
                };
            }
            Refusal::Allocate(_) => {
                return Self {
                    status: StatusCode::CONFLICT,
                    error,
                    reason: Reason::OutOfSubnets,
                    key: None,
                    value: None,
                };
            }
        };
        Self {
            status,
            error,
            reason,
            key: Some(key.to_owned()),
            value: Some(value),
        }
    }
}

impl IntoResponse for ErrorAnswer {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}
