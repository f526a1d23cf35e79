//! One line of a watch.

use serde::Deserialize;
use thiserror::Error;

use super::annotations::Annotations;
use super::node::{Node, NodeError};

/// What a watch of Nodes says.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// A Node that is there, new or changed.
    Seen(Node),
    /// A Node that is gone, as it was last.
    Deleted(Node),
    /// Everything up to this version was said.
    Bookmark {
        /// The version.
        version: String,
    },
    /// The watch ends.
    Error {
        /// HTTP's number for it; 410 where the version is too old.
        code: u16,
        /// The API server's words.
        message: String,
    },
    /// Of a kind that is not known.
    Other {
        /// The kind, shortened.
        kind: String,
    },
}

/// A line that cannot be read.
#[derive(Debug, Error)]
pub enum ReadEventError {
    /// No event of a watch.
    #[error("the API server's watch sent a line that is no event")]
    Line(#[source] serde_json::Error),
    /// An event of a Node that cannot be read.
    #[error(transparent)]
    Node(#[from] NodeError),
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
struct Holding<T> {
    object: T,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
struct BookmarkMeta {
    #[serde(rename = "resourceVersion")]
    resource_version: String,
}

/// The API server's `Status`.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

impl WatchEvent {
    /// Reads a line.
    pub fn read(names: &Annotations, line: &[u8]) -> Result<Self, ReadEventError> {
        let Kind { kind } = serde_json::from_slice(line).map_err(ReadEventError::Line)?;
        Ok(match &*kind {
            "ADDED" | "MODIFIED" => Self::Seen(Node::read_event(names, line)?),
            "DELETED" => Self::Deleted(Node::read_event(names, line)?),
            "BOOKMARK" => {
                let read: Holding<Bookmark> =
                    serde_json::from_slice(line).map_err(ReadEventError::Line)?;
                let version = read.object.metadata.resource_version;
                Self::Bookmark { version }
            }
            "ERROR" => {
                let read: Holding<Status> =
                    serde_json::from_slice(line).map_err(ReadEventError::Line)?;
                let Status { code, message } = read.object;
                Self::Error { code, message }
            }
            other => Self::Other {
                kind: other.chars().take(32).collect(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let names = Annotations::new("flannel.alpha.coreos.com").unwrap();
        let node = r#"{"metadata":{"name":"n1","resourceVersion":"5"},"spec":{"podCIDR":"10.244.1.0/24"}}"#;
        for (line, expected) in [
            (format!(r#"{{"type":"ADDED","object":{node}}}"#), "Seen(Node"),
            (format!(r#"{{"object":{node},"type":"MODIFIED"}}"#), "Seen(Node"),
            (format!(r#"{{"type":"DELETED","object":{node}}}"#), "Deleted(Node"),
            (format!(r#"{{"type":"NEW","object":{node}}}"#), "Other"),
            (
                r#"{"type":"BOOKMARK","object":{"kind":"Node","metadata":{"resourceVersion":"12746"}}}"#.to_owned(),
                "Bookmark { version: \"12746\" }",
            ),
            (
                r#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version: 1 (2)","reason":"Expired"}}"#.to_owned(),
                "Error { code: 410,",
            ),
        ] {
            let read = WatchEvent::read(&names, line.as_bytes()).unwrap();
            assert!(format!("{read:?}").starts_with(expected), "{line}: {read:?}");
        }
    }

    #[test]
    fn other_lines_are_errors() {
        let names = Annotations::new("flannel.alpha.coreos.com").unwrap();
        for line in [
            "",
            "null",
            "{}",
            "[]",
            r#"{"type":7}"#,
            r#"{"type":"ADDED"}"#,
            r#"{"type":"ADDED","object":null}"#,
            r#"{"type":"ADDED","object":{}}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":""}}}"#,
            r#"{"type":"BOOKMARK","object":{}}"#,
            r#"{"type":"ERROR","object":{"code":"x"}}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":"n1"}}"#,
        ] {
            assert!(WatchEvent::read(&names, line.as_bytes()).is_err(), "{line}");
        }
    }
}
