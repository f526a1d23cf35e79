//! The lease server's answers, read as if an enemy had written them.

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use twill_core::lease::Lease;
use twill_core::subnet::Subnet;

use crate::store::unread::UnreadLease;

/// How much of an unreadable answer is shown, in characters.
const SHOWN: usize = 200;

/// An answer that is not what a lease server gives.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// Not the JSON that it should be.
    #[error("{shown:?} is not {right}")]
    Json {
        /// The beginning of it.
        shown: String,
        /// What it should be.
        right: &'static str,
        /// The cause.
        source: serde_json::Error,
    },
    /// JSON of the right form that cannot be true.
    #[error("{key} is {value:?}, {right}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What would be right.
        right: String,
    },
    /// More than there can be.
    #[error("it is longer than {limit} bytes")]
    TooLong {
        /// How much would be read.
        limit: usize,
    },
}

/// A list of leases.
#[derive(Debug)]
pub(super) struct List {
    /// The store's name.
    pub(super) store: String,
    /// The revision that the list is of.
    pub(super) revision: u64,
    /// Every lease that could be read.
    pub(super) leases: Vec<Lease>,
    /// The others.
    pub(super) unread: Vec<UnreadLease>,
}

/// One line of a watch.
#[derive(Debug)]
pub(super) enum Line {
    /// A lease is new or changed.
    Added {
        revision: u64,
        lease: Result<Lease, UnreadLease>,
    },
    /// A lease is gone.
    Removed { revision: u64, subnet: Subnet },
    /// Nothing happened up to this revision.
    Bookmark { revision: u64, store: String },
    /// The watch cannot go on.
    Gone { why: String },
}

/// The body of an error.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody {
    pub(super) error: String,
    pub(super) reason: String,
    pub(super) key: Option<String>,
    pub(super) value: Option<String>,
}

#[derive(Deserialize)]
struct ListBody<L> {
    store: String,
    revision: u64,
    leases: Vec<L>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum LineBody {
    Added { revision: u64, lease: Value },
    Removed { revision: u64, subnet: Subnet },
    Bookmark { revision: u64, store: String },
    Gone { error: String },
}

impl List {
    /// Reads a list. A lease in it that is unreadable costs only itself.
    pub(super) fn parse(text: &[u8]) -> Result<Self, AnswerError> {
        let list = match serde_json::from_slice::<ListBody<Lease>>(text) {
            Ok(ListBody {
                store,
                revision,
                leases,
            }) => Self {
                store,
                revision,
                leases,
                unread: Vec::new(),
            },
            Err(_) => Self::parse_one_by_one(text)?,
        };
        if list.store.is_empty() {
            return Err(AnswerError::Value {
                key: "store",
                value: list.store,
                right: "every store has a name".to_owned(),
            });
        }
        Ok(list)
    }

    fn parse_one_by_one(text: &[u8]) -> Result<Self, AnswerError> {
        let ListBody::<Value> {
            store,
            revision,
            leases,
        } = json(text, r#"{"store":…,"revision":…,"leases":[…]}"#)?;
        let mut list = Self {
            store,
            revision,
            leases: Vec::new(),
            unread: Vec::new(),
        };
        for value in leases {
            match parse_lease(&value) {
                Ok(lease) => list.leases.push(lease),
                Err(unread) => list.unread.push(unread),
            }
        }
        Ok(list)
    }
}

impl Line {
    /// Reads a line.
    pub(super) fn parse(text: &[u8]) -> Result<Self, AnswerError> {
        Ok(match json(text, r#"{"revision":…,"type":…}"#)? {
            LineBody::Added { revision, lease } => Self::Added {
                revision,
                lease: parse_lease(&lease),
            },
            LineBody::Removed { revision, subnet } => Self::Removed { revision, subnet },
            LineBody::Bookmark { revision, store } => Self::Bookmark { revision, store },
            LineBody::Gone { error } => Self::Gone { why: error },
        })
    }
}

/// Reads one lease.
pub(super) fn lease(text: &[u8]) -> Result<Lease, AnswerError> {
    json(text, r#"a lease, {"subnet":…,"attrs":{…}}"#)
}

fn json<'a, T: Deserialize<'a>>(text: &'a [u8], right: &'static str) -> Result<T, AnswerError> {
    serde_json::from_slice(text).map_err(|source| AnswerError::Json {
        shown: shown(&String::from_utf8_lossy(text)),
        right,
        source,
    })
}

fn parse_lease(value: &Value) -> Result<Lease, UnreadLease> {
    Lease::deserialize(value).map_err(|error| UnreadLease {
        subnet: value
            .get("subnet")
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok()),
        value: shown(&value.to_string()),
        why: error.to_string(),
    })
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: &str = r#"{"subnet":"10.244.1.0/24","attrs":{"PublicIP":"192.0.2.1"}}"#;

    #[test]
    fn a_list_needs_a_store_a_revision_and_leases() {
        let list = List::parse(
            format!(r#"{{"store":"a","revision":7,"leases":[{LEASE}],"more":1}}"#).as_bytes(),
        )
        .unwrap();
        assert_eq!((list.store.as_str(), list.revision), ("a", 7));
        assert_eq!(list.leases.len(), 1);
        assert_eq!(list.unread, []);
        for rubbish in [
            "",
            " ",
            "null",
            "[]",
            "{}",
            "\"\"",
            "<html><body>It works!</body></html>",
            r#"{"store":"a","revision":7,"leases":[]"#,
            r#"{"store":"a","revision":7,"leases":[]}}"#,
            r#"{"store":"a","revision":7}"#,
            r#"{"store":"a","revision":7,"leases":null}"#,
            r#"{"store":"a","revision":7,"leases":{}}"#,
            r#"{"store":"a","leases":[]}"#,
            r#"{"store":"a","revision":-1,"leases":[]}"#,
            r#"{"store":"a","revision":"7","leases":[]}"#,
            r#"{"revision":7,"leases":[]}"#,
            r#"{"store":"","revision":7,"leases":[]}"#,
            r#"{"error":"no","reason":"unavailable"}"#,
        ] {
            assert!(
                List::parse(rubbish.as_bytes()).is_err(),
                "{rubbish} was taken"
            );
        }
    }

    #[test]
    fn an_unreadable_lease_costs_only_itself() {
        let text = format!(
            r#"{{"store":"a","revision":7,"leases":[{LEASE},
                {{"subnet":"10.244.2.0/24","attrs":{{"PublicIP":"nobody"}}}},
                {{"subnet":"10.244.3.1/24","attrs":{{"PublicIP":"192.0.2.3"}}}},
                17]}}"#
        );
        let list = List::parse(text.as_bytes()).unwrap();
        assert_eq!(list.leases.len(), 1);
        let subnets: Vec<_> = list.unread.iter().map(|unread| unread.subnet).collect();
        assert_eq!(
            subnets,
            [Some("10.244.2.0/24".parse().unwrap()), None, None]
        );
        assert!(list.unread[0].value.contains("nobody"));
        assert!(
            list.unread[1].why.contains("host bits"),
            "{:?}",
            list.unread[1]
        );
    }
}
