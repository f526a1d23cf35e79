//! What of a Node matters here.

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

use super::taint::Taint;
use crate::subnet::Subnet;

/// A Node. Read from its JSON and everything else of it dropped.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "Raw")]
pub struct CidrNode {
    /// Its name.
    pub name: String,
    /// What tells it from another one of its name, before or after.
    pub uid: String,
    /// Its version, for changes that must not overwrite somebody else's.
    pub version: String,
    /// What it has; texts that are no prefix are left out.
    pub cidrs: Vec<Subnet>,
    /// Whether anything is set there, readable or not: it cannot be changed any more.
    pub has_cidr: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
}

/// JSON that is no Node.
#[derive(Debug, Error)]
#[error("the API server's answer is no Node")]
pub struct ReadNodeError(#[source] serde_json::Error);

#[derive(Deserialize)]
struct Raw {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default, rename = "podCIDR")]
    one: String,
    #[serde(default, rename = "podCIDRs")]
    all: Option<Vec<String>>,
    #[serde(default)]
    taints: Option<Vec<Taint>>,
}

impl CidrNode {
    /// Reads one.
    pub fn read(json: &[u8]) -> Result<Self, ReadNodeError> {
        serde_json::from_slice(json).map_err(ReadNodeError)
    }
}

impl From<Raw> for CidrNode {
    fn from(raw: Raw) -> Self {
        let mut texts = raw.spec.all.unwrap_or_default();
        texts.push(raw.spec.one);
        texts.retain(|text| !text.is_empty());
        let prefixes = texts.iter().filter_map(|text| text.parse().ok());
        let mut cidrs: Vec<Subnet> = prefixes.map(Subnet::containing).collect();
        cidrs.sort_unstable();
        cidrs.dedup();
        Self {
            name: raw.metadata.name,
            uid: raw.metadata.uid,
            version: raw.metadata.resource_version,
            has_cidr: !texts.is_empty(),
            cidrs,
            labels: raw.metadata.labels.unwrap_or_default(),
            taints: raw.spec.taints.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read() {
        let node = CidrNode::read(
            br#"{"metadata":{"name":"a","resourceVersion":"7","labels":{"l":"m"}},
                "spec":{"podCIDR":"10.0.1.0/24","podCIDRs":["10.0.1.0/24","fd00::/64"],
                "taints":[{"key":"k","effect":"NoSchedule","timeAdded":"now"}]},"status":{}}"#,
        )
        .unwrap();
        let cidrs: Vec<_> = node.cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.0.1.0/24", "fd00::/64"]);
        assert!(node.has_cidr);
        assert_eq!(node.labels["l"], "m");
        // What is not known here is kept for whoever writes the taints again.
        let taint = serde_json::to_value(&node.taints[0]).unwrap();
        assert_eq!(taint["timeAdded"], "now");
        let bare = CidrNode::read(br#"{"metadata":{"name":"a"}}"#).unwrap();
        assert!(!bare.has_cidr && bare.cidrs.is_empty());
        let odd =
            br#"{"metadata":{"name":"a","labels":null},"spec":{"podCIDR":"x","taints":null}}"#;
        let odd = CidrNode::read(odd).unwrap();
        assert!(odd.has_cidr && odd.cidrs.is_empty());
        assert!(CidrNode::read(b"[]").is_err());
    }
}
