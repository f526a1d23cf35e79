//! The own Node: what is to be written to it, byte for byte as flannel writes it (flannel 0.28.9,
//! `pkg/subnet/kube/kube.go`), and only where it differs.

use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::annotations::{Annotation, Annotations};
use super::node::{Node, NodeError};
use crate::backend::vxlan;
use crate::lease::{BackendData, LeaseAttrs};

/// The condition that keeps pods off a node without a network.
pub const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

/// What the own Node should say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Own {
    annotations: Vec<(Annotation, String)>,
    /// The address that other nodes are told.
    pub public_ip: Ipv4Addr,
}

impl Own {
    /// What this Node should say of a node with these attributes. Where a person wrote another
    /// address to be published, that is.
    pub fn new(names: &Annotations, node: &Node, attrs: &LeaseAttrs) -> Result<Self, NodeError> {
        let overwrite = node.address(names, Annotation::PublicIpOverwrite)?;
        let public_ip = overwrite.unwrap_or(attrs.public_ip);
        let mut annotations = vec![(Annotation::BackendType, attrs.backend_type.clone())];
        let data = attrs.backend_data.as_ref().map(BackendData::as_str);
        if data.is_some() || attrs.backend_type != vxlan::NAME {
            let data = data.unwrap_or("null").to_owned();
            annotations.push((Annotation::BackendData, data));
            annotations.push((Annotation::PublicIp, public_ip.to_string()));
        }
        annotations.push((Annotation::Manager, "true".to_owned()));
        Ok(Self {
            annotations,
            public_ip,
        })
    }

    /// The strategic merge patch that makes the Node say it; `None` if it does.
    pub fn patch(&self, names: &Annotations, node: &Node) -> Option<Value> {
        let differing = self.differing(node);
        let changed: Map<String, Value> = differing
            .map(|(annotation, value)| (names.name(*annotation), value.as_str().into()))
            .collect();
        (!changed.is_empty()).then(|| json!({"metadata": {"annotations": changed}}))
    }

    /// Whether somebody else says something else there, and has not only removed it.
    pub fn is_contradicted(&self, node: &Node) -> bool {
        let mut differing = self.differing(node);
        differing.any(|(annotation, _)| node.annotation(*annotation).is_some())
    }

    fn differing<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a (Annotation, String)> {
        let all = self.annotations.iter();
        all.filter(|(annotation, value)| node.annotation(*annotation) != Some(value))
    }
}

/// The patch that says that the node has a network, at `now` (RFC 3339).
pub fn network_available(now: &str) -> Value {
    json!({"status": {"conditions": [{
        "type": NETWORK_UNAVAILABLE,
        "status": "False",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
        "reason": "FlannelIsUp",
        "message": "Flannel is running on this node",
    }]}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vtep::{MacAddr, Vni};

    fn names() -> Annotations {
        Annotations::new("flannel.alpha.coreos.com").unwrap()
    }

    fn vxlan_attrs() -> LeaseAttrs {
        let mac = MacAddr([0x12, 0xc6, 0x65, 0x89, 0xb4, 0xe3]);
        vxlan::attrs([192, 0, 2, 1].into(), Vni::new(1).unwrap(), mac)
    }

    fn node(annotations: &Value) -> Node {
        let text = json!({"metadata": {"name": "n1", "annotations": annotations}});
        Node::read(&names(), text.to_string().as_bytes()).unwrap()
    }

    fn patch(annotations: &Value, attrs: &LeaseAttrs) -> Option<Value> {
        let node = node(annotations);
        Own::new(&names(), &node, attrs)
            .unwrap()
            .patch(&names(), &node)
    }

    #[test]
    fn the_annotations_are_flannels_to_the_byte() {
        let all = json!({
            "flannel.alpha.coreos.com/backend-data": r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#,
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
        });
        // A Node without any annotation is no reason to stop.
        let expected = Some(json!({"metadata": {"annotations": all}}));
        assert_eq!(patch(&Value::Null, &vxlan_attrs()), expected);
        // Nothing is written that is there, and others' annotations are nobody's business.
        assert_eq!(patch(&all, &vxlan_attrs()), None);
        let mut more = all.clone();
        more["other.example/x"] = json!("y");
        more["flannel.alpha.coreos.com/public-ipv6"] = json!("fd00::1");
        assert_eq!(patch(&more, &vxlan_attrs()), None);
        // Only what differs is.
        let mut changed = all.clone();
        changed["flannel.alpha.coreos.com/public-ip"] = json!("192.0.2.9");
        changed
            .as_object_mut()
            .unwrap()
            .remove("flannel.alpha.coreos.com/kube-subnet-manager");
        let expected = json!({"metadata": {"annotations": {
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
        }}});
        assert_eq!(patch(&changed, &vxlan_attrs()), Some(expected));
    }

    #[test]
    fn a_backend_without_data_says_null() {
        let attrs = LeaseAttrs {
            public_ip: [192, 0, 2, 1].into(),
            public_ipv6: None,
            backend_type: "host-gw".to_owned(),
            backend_data: None,
            backend_v6_data: None,
        };
        let patch = patch(&json!({}), &attrs).unwrap();
        let annotations = &patch["metadata"]["annotations"];
        assert_eq!(annotations["flannel.alpha.coreos.com/backend-data"], "null");
        assert_eq!(
            annotations["flannel.alpha.coreos.com/backend-type"],
            "host-gw"
        );
    }

    #[test]
    fn a_person_s_address_is_published_instead() {
        let written = json!({"flannel.alpha.coreos.com/public-ip-overwrite": "198.51.100.1"});
        let node = node(&written);
        let own = Own::new(&names(), &node, &vxlan_attrs()).unwrap();
        assert_eq!(own.public_ip, Ipv4Addr::new(198, 51, 100, 1));
        let patch = own.patch(&names(), &node).unwrap();
        let published = &patch["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"];
        assert_eq!(published, "198.51.100.1");
        let wrong = json!({"flannel.alpha.coreos.com/public-ip-overwrite": "198.51.100"});
        assert!(Own::new(&names(), &self::node(&wrong), &vxlan_attrs()).is_err());
    }

    #[test]
    fn removed_is_another_thing_than_contradicted() {
        let contradicted = |annotations: &Value| {
            let node = node(annotations);
            Own::new(&names(), &node, &vxlan_attrs())
                .unwrap()
                .is_contradicted(&node)
        };
        assert!(!contradicted(&json!({})));
        assert!(contradicted(
            &json!({"flannel.alpha.coreos.com/public-ip": "192.0.2.9"})
        ));
    }

    #[test]
    fn the_condition_is_flannels() {
        let text = network_available("2026-12-01T06:00:00Z").to_string();
        for part in [
            r#""type":"NetworkUnavailable""#,
            r#""status":"False""#,
            r#""lastHeartbeatTime":"2026-12-01T06:00:00Z""#,
            r#""lastTransitionTime":"2026-12-01T06:00:00Z""#,
            r#""reason":"FlannelIsUp""#,
            r#""message":"Flannel is running on this node""#,
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
