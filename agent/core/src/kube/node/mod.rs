//! A Node, as far as it matters, and the lease that it stands for.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;
use thiserror::Error;

use super::annotations::{Annotation, Annotations};
use super::own::NETWORK_UNAVAILABLE;
use crate::lease::{BackendData, Lease, LeaseAttrs};
use crate::subnet::Subnet;

/// Characters of a value that an error repeats: the text may be of any length.
const SHOWN: usize = 64;

/// What Twill needs of a Node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: Box<str>,
    /// Which of those that had the name one after the other.
    pub uid: Box<str>,
    /// The version of the object.
    pub version: Box<str>,
    /// `spec.podCIDRs`, or `spec.podCIDR` where that is empty, as written.
    pub pod_cidrs: Vec<Box<str>>,
    /// The status of the condition `NetworkUnavailable`, if it has that.
    pub network_unavailable: Option<Box<str>>,
    annotations: BTreeMap<Annotation, Box<str>>,
}

/// What a Node is to the other nodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sight {
    /// A node with a subnet.
    Peer(Lease),
    /// A node of the overlay that has no subnet yet.
    WithoutSubnet,
    /// No node of the overlay: `kube-subnet-manager` or the address is missing.
    NoPeer,
}

/// A Node that is not what it should be: which, key, value, and what would be right.
#[derive(Debug, Error)]
pub enum NodeError {
    /// No Node at all.
    #[error("the API server sent an object that is no Node")]
    NoNode(#[source] serde_json::Error),
    /// A Node without a name.
    #[error("the API server sent a Node without a name")]
    NoName,
    /// An annotation that cannot be read.
    #[error("annotation {key} of node {node:?} is {value:?}: {why}; it would be {right}")]
    Annotation {
        /// The Node.
        node: String,
        /// The annotation's whole name.
        key: String,
        /// Its value, shortened.
        value: String,
        /// What is wrong.
        why: String,
        /// What would be right.
        right: &'static str,
    },
    /// A node with IPv6 alone.
    #[error(
        "node {node:?} publishes no IPv4 address ({key} is missing) but an IPv6 one: the overlay \
         has IPv4 alone; give the node an IPv4 address"
    )]
    OnlyIpv6 {
        /// The Node.
        node: String,
        /// The missing annotation.
        key: String,
    },
    /// A podCIDR that cannot be read.
    #[error("podCIDR of node {node:?} is {value:?}; it would be a prefix, as 10.244.1.0/24")]
    PodCidr {
        /// The Node.
        node: String,
        /// The value, shortened.
        value: String,
    },
    /// More podCIDRs than families.
    #[error(
        "node {node:?} pod cidrs should be IPv4/IPv6 only or dualstack (podCIDRs has {count}; \
         Kubernetes gives one for each family)"
    )]
    PodCidrs {
        /// The Node.
        node: String,
        /// How many there are.
        count: usize,
    },
    /// No IPv4 among the podCIDRs.
    #[error(
        "node {node:?}: missing IPv4 address on n.Spec.PodCIDRs (podCIDRs is {value}); give the \
         controller manager an IPv4 --cluster-cidr"
    )]
    NoIpv4 {
        /// The Node.
        node: String,
        /// What there is.
        value: String,
    },
}

#[derive(Deserialize)]
struct WireNode<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    spec: Option<Spec<'a>>,
    #[serde(borrow, default)]
    status: Option<Status<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
    #[serde(default)]
    annotations: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

#[derive(Deserialize)]
struct Spec<'a> {
    #[serde(rename = "podCIDR", borrow, default)]
    pod_cidr: Option<Cow<'a, str>>,
    #[serde(rename = "podCIDRs", default)]
    pod_cidrs: Option<Vec<Cow<'a, str>>>,
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow, default)]
    conditions: Option<Vec<WireCondition<'a>>>,
}

#[derive(Deserialize)]
struct WireCondition<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    object: WireNode<'a>,
}

impl Node {
    /// Reads a Node.
    pub fn read(names: &Annotations, json: &[u8]) -> Result<Self, NodeError> {
        let node: WireNode<'_> = serde_json::from_slice(json).map_err(NodeError::NoNode)?;
        Self::of(names, node)
    }

    /// Reads the Node in an event of a watch.
    pub(super) fn read_event(names: &Annotations, json: &[u8]) -> Result<Self, NodeError> {
        let event: Event<'_> = serde_json::from_slice(json).map_err(NodeError::NoNode)?;
        Self::of(names, event.object)
    }

    fn of(names: &Annotations, node: WireNode<'_>) -> Result<Self, NodeError> {
        let WireNode {
            metadata,
            spec,
            status,
        } = node;
        if metadata.name.is_empty() {
            return Err(NodeError::NoName);
        }
        let annotations = metadata.annotations.unwrap_or_default().into_iter();
        let annotations =
            annotations.filter_map(|(name, value)| Some((names.find(&name)?, value.into())));
        let pod_cidrs = spec.map(Spec::cidrs).unwrap_or_default();
        let conditions = status.and_then(|status| status.conditions);
        let mut conditions = conditions.unwrap_or_default().into_iter();
        let unavailable = conditions.find(|condition| condition.kind == NETWORK_UNAVAILABLE);
        Ok(Self {
            name: metadata.name.into(),
            uid: metadata.uid.into(),
            version: metadata.resource_version.into(),
            pod_cidrs,
            network_unavailable: unavailable.map(|condition| condition.status.into()),
            annotations: annotations.collect(),
        })
    }

    /// An annotation's value.
    pub fn annotation(&self, annotation: Annotation) -> Option<&str> {
        self.annotations.get(&annotation).map(|value| &**value)
    }

    /// The IPv4 subnet that Kubernetes gave to the node; `None` as long as it gave none at all.
    pub fn subnet(&self) -> Result<Option<Subnet>, NodeError> {
        let cidrs = &self.pod_cidrs;
        if cidrs.len() > 2 {
            return Err(NodeError::PodCidrs {
                node: shown(&self.name),
                count: cidrs.len(),
            });
        }
        let mut ipv4 = None;
        for cidr in cidrs {
            match read_cidr(cidr) {
                Some(Cidr::Ipv4(subnet)) => ipv4 = ipv4.or(Some(subnet)),
                Some(Cidr::Ipv6) => {}
                None => {
                    return Err(NodeError::PodCidr {
                        node: shown(&self.name),
                        value: shown(cidr),
                    });
                }
            }
        }
        if ipv4.is_none() && !cidrs.is_empty() {
            let list: Vec<String> = cidrs.iter().map(|cidr| shown(cidr)).collect();
            return Err(NodeError::NoIpv4 {
                node: shown(&self.name),
                value: list.join(","),
            });
        }
        Ok(ipv4)
    }

    /// What it is to the other nodes.
    pub fn sight(&self, names: &Annotations) -> Result<Sight, NodeError> {
        if self.annotation(Annotation::Manager) != Some("true") {
            return Ok(Sight::NoPeer);
        }
        let Some(public_ip) = self.annotation(Annotation::PublicIp) else {
            return match self.annotation(Annotation::PublicIpv6) {
                None => Ok(Sight::NoPeer),
                Some(_) => Err(NodeError::OnlyIpv6 {
                    node: shown(&self.name),
                    key: names.name(Annotation::PublicIp),
                }),
            };
        };
        let public_ip: Ipv4Addr = public_ip.parse().map_err(|error| {
            let right = "the node's IPv4 address, as 192.0.2.1";
            self.wrong(names, Annotation::PublicIp, &error, right)
        })?;
        let Some(subnet) = self.subnet()? else {
            return Ok(Sight::WithoutSubnet);
        };
        let backend_type = self.annotation(Annotation::BackendType);
        let attrs = LeaseAttrs {
            public_ip,
            public_ipv6: self.ipv6(Annotation::PublicIpv6),
            backend_type: backend_type.unwrap_or_default().to_owned(),
            backend_data: self.data(names, Annotation::BackendData)?,
            // Nothing reads it as long as the overlay has IPv4 alone.
            backend_v6_data: None,
        };
        Ok(Sight::Peer(Lease {
            subnet,
            attrs,
            ttl_seconds: None,
        }))
    }

    /// An IPv4 address that a person wrote for this node.
    pub fn address(
        &self,
        names: &Annotations,
        annotation: Annotation,
    ) -> Result<Option<Ipv4Addr>, NodeError> {
        let written = self.annotation(annotation);
        let Some(written) = written.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let right = "an IPv4 address, as 192.0.2.1";
        let read = written.parse().map(Some);
        read.map_err(|error| self.wrong(names, annotation, &error, right))
    }

    /// The backend's data, as JSON; `null` and no text are none.
    pub fn data(
        &self,
        names: &Annotations,
        annotation: Annotation,
    ) -> Result<Option<BackendData>, NodeError> {
        let written = self.annotation(annotation).unwrap_or_default();
        if written.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(written).map_err(|error: serde_json::Error| {
            let right = r#"JSON, as {"VNI":1,"VtepMAC":"02:00:5e:10:00:01"}"#;
            self.wrong(names, annotation, &error, right)
        })
    }

    fn ipv6(&self, annotation: Annotation) -> Option<Ipv6Addr> {
        self.annotation(annotation)?.parse().ok()
    }

    fn wrong(
        &self,
        names: &Annotations,
        annotation: Annotation,
        why: &dyn std::error::Error,
        right: &'static str,
    ) -> NodeError {
        NodeError::Annotation {
            node: shown(&self.name),
            key: names.name(annotation),
            value: shown(self.annotation(annotation).unwrap_or_default()),
            why: why.to_string(),
            right,
        }
    }
}

impl Spec<'_> {
    fn cidrs(self) -> Vec<Box<str>> {
        let several = self.pod_cidrs.filter(|cidrs| !cidrs.is_empty());
        let one = self.pod_cidr.filter(|cidr| !cidr.is_empty());
        let cidrs = several.or(one.map(|cidr| vec![cidr])).unwrap_or_default();
        cidrs.into_iter().map(Into::into).collect()
    }
}

enum Cidr {
    Ipv4(Subnet),
    Ipv6,
}

/// As Go's `net.ParseCIDR` takes it: host bits are masked off.
fn read_cidr(text: &str) -> Option<Cidr> {
    if let Ok(subnet) = Subnet::parse_masking(text) {
        return Some(Cidr::Ipv4(subnet));
    }
    let (address, len) = text.split_once('/')?;
    let len: u8 = len.parse().ok().filter(|len| *len <= 128)?;
    match address.parse() {
        Ok(IpAddr::V6(_)) if len.to_string() == text.rsplit('/').next()? => Some(Cidr::Ipv6),
        _ => None,
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
