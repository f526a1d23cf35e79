//! Nodes of flannel's, and garbage.

use serde_json::{Value, json};

use super::*;

const PREFIX: &str = "flannel.alpha.coreos.com/";

fn names() -> Annotations {
    Annotations::new("flannel.alpha.coreos.com").unwrap()
}

/// A node of flannel's, with some annotations and spec changed; `null` removes.
fn node(annotations: &str, spec: &str) -> Node {
    let [changed, spec]: [Value; 2] =
        [annotations, spec].map(|text| serde_json::from_str(text).unwrap());
    let mut all = json!({
        "kube-subnet-manager": "true",
        "backend-type": "vxlan",
        "backend-data": r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#,
        "public-ip": "192.0.2.1",
    });
    for (name, value) in changed.as_object().unwrap() {
        all[name] = value.clone();
    }
    let all = all.as_object().unwrap().iter();
    let set = all.filter(|(_, value)| !value.is_null());
    let all: serde_json::Map<String, Value> = set
        .map(|(name, value)| (format!("{PREFIX}{name}"), value.clone()))
        .collect();
    let text = json!({
        "metadata": {"name": "n1", "uid": "u", "resourceVersion": "7", "annotations": all},
        "spec": spec,
        "status": {"images": [{"names": ["x"], "sizeBytes": 7}]},
    });
    Node::read(&names(), text.to_string().as_bytes()).unwrap()
}

const CIDR: &str = r#"{"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}"#;

#[test]
fn a_node_of_flannels_is_a_lease() {
    let Sight::Peer(lease) = node("{}", CIDR).sight(&names()).unwrap() else {
        panic!("no peer");
    };
    let expected: Lease = serde_json::from_str(
        r#"{"subnet":"10.244.1.0/24","attrs":{"PublicIP":"192.0.2.1","BackendType":"vxlan",
            "BackendData":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}}}"#,
    )
    .unwrap();
    assert_eq!(lease, expected);
}

/// What a Node is: `Ok(Some)` the lease's subnet, `Ok(None)` no lease, `Err` a part of it.
type Is = Result<Option<&'static str>, &'static str>;

fn check(annotations: &str, spec: &str, expected: Is) {
    let said = match node(annotations, spec).sight(&names()) {
        Ok(Sight::Peer(lease)) => Ok(Some(lease.subnet.to_string())),
        Ok(Sight::WithoutSubnet | Sight::NoPeer) => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    let same = match (&said, expected) {
        (Ok(said), Ok(expected)) => said.as_deref() == expected,
        (Err(said), Err(part)) => said.contains(part) && said.len() < 400,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    };
    assert!(same, "{annotations} {spec}: {said:?}, not {expected:?}");
}

/// The first of a family, of both families in either order.
const PREFIXES: [(&str, Is); 19] = [
    (r#"{"podCIDR": "10.244.1.0/24"}"#, Ok(Some("10.244.1.0/24"))),
    (
        r#"{"podCIDR": "10.9.9.0/24", "podCIDRs": []}"#,
        Ok(Some("10.9.9.0/24")),
    ),
    (
        r#"{"podCIDR": "10.9.9.0/24", "podCIDRs": ["10.1.0.0/20"]}"#,
        Ok(Some("10.1.0.0/20")),
    ),
    (
        r#"{"podCIDRs": ["fd00:1::/64", "10.244.1.0/24"]}"#,
        Ok(Some("10.244.1.0/24")),
    ),
    (
        r#"{"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]}"#,
        Ok(Some("10.244.1.0/24")),
    ),
    (
        r#"{"podCIDRs": ["10.244.1.0/24", "10.244.2.0/24"]}"#,
        Ok(Some("10.244.1.0/24")),
    ),
    (r#"{"podCIDR": "10.244.1.7/24"}"#, Ok(Some("10.244.1.0/24"))),
    ("{}", Ok(None)),
    ("null", Ok(None)),
    (r#"{"podCIDR": ""}"#, Ok(None)),
    (
        r#"{"podCIDRs": ["fd00:1::/64"]}"#,
        Err("missing IPv4 address on n.Spec.PodCIDRs"),
    ),
    (r#"{"podCIDR": "fd00:1::/64"}"#, Err("missing IPv4")),
    (
        r#"{"podCIDRs": ["10.244.1.0/24", "fd00::/64", "10.0.0.0/24"]}"#,
        Err("IPv4/IPv6 only or dualstack (podCIDRs has 3"),
    ),
    (
        r#"{"podCIDR": "10.244.1.0"}"#,
        Err("podCIDR of node \"n1\" is \"10.244.1.0\""),
    ),
    (r#"{"podCIDR": "10.244.1.0/33"}"#, Err("10.244.1.0/33")),
    (r#"{"podCIDR": "10.244.01.0/24"}"#, Err("podCIDR")),
    (r#"{"podCIDRs": ["10.244.1.0/24", "x"]}"#, Err("\"x\"")),
    (r#"{"podCIDRs": ["fd00::/129"]}"#, Err("fd00::/129")),
    (r#"{"podCIDRs": ["fd00::/+64"]}"#, Err("podCIDR")),
];

/// Whether it is a peer at all, addresses, and data.
const ANNOTATIONS: [(&str, Is); 18] = [
    (r#"{"kube-subnet-manager": null}"#, Ok(None)),
    (r#"{"kube-subnet-manager": "True"}"#, Ok(None)),
    (r#"{"kube-subnet-manager": ""}"#, Ok(None)),
    (r#"{"public-ip": null}"#, Ok(None)),
    (
        r#"{"public-ip": null, "public-ipv6": "fd00::1"}"#,
        Err("publishes no IPv4 address (flannel.alpha.coreos.com/public-ip is missing)"),
    ),
    (
        r#"{"public-ip": ""}"#,
        Err("public-ip of node \"n1\" is \"\""),
    ),
    (
        r#"{"public-ip": "192.0.2"}"#,
        Err("it would be the node's IPv4 address"),
    ),
    (r#"{"public-ip": "192.0.2.01"}"#, Err("192.0.2.01")),
    (r#"{"public-ip": " 192.0.2.1"}"#, Err("public-ip")),
    (r#"{"public-ip": "fd00::1"}"#, Err("public-ip")),
    (r#"{"public-ipv6": "x"}"#, Ok(Some("10.244.1.0/24"))),
    (r#"{"backend-data": "null"}"#, Ok(Some("10.244.1.0/24"))),
    (r#"{"backend-data": null}"#, Ok(Some("10.244.1.0/24"))),
    (r#"{"backend-data": ""}"#, Ok(Some("10.244.1.0/24"))),
    (
        r#"{"backend-data": "{\"VtepMAC\":\"02:00:00:00:00:07\"}"}"#,
        Ok(Some("10.244.1.0/24")),
    ),
    (
        r#"{"backend-data": "{\"VNI\":1,"}"#,
        Err("backend-data of node \"n1\""),
    ),
    (r#"{"backend-data": "{} {}"}"#, Err("it would be JSON")),
    (r#"{"backend-type": null}"#, Ok(Some("10.244.1.0/24"))),
];

#[test]
fn a_pod_cidr_is_a_subnet_or_told() {
    for (spec, expected) in PREFIXES {
        check("{}", spec, expected);
    }
}

#[test]
fn annotations_are_a_lease_or_told() {
    for (annotations, expected) in ANNOTATIONS {
        check(annotations, CIDR, expected);
    }
}

#[test]
fn what_is_no_node_is_an_error() {
    for text in [
        "",
        "null",
        "{}",
        "[]",
        r#"{"metadata":null}"#,
        r#"{"metadata":{}}"#,
        r#"{"metadata":{"name":""}}"#,
        r#"{"metadata":{"name":7}}"#,
        r#"{"metadata":{"name":"n","annotations":{"a":7}}}"#,
        r#"{"metadata":{"name":"n","annotations":[]}}"#,
        r#"{"metadata":{"name":"n"},"spec":7}"#,
        r#"{"metadata":{"name":"n"},"spec":{"podCIDRs":"10.0.0.0/24"}}"#,
        r#"{"metadata":{"name":"n"},"spec":{"podCIDR":7}}"#,
        r#"{"metadata":{"name":"n"},"status":{"conditions":{}}}"#,
        r#"{"metadata":{"name":"n"}} x"#,
    ] {
        assert!(Node::read(&names(), text.as_bytes()).is_err(), "{text}");
    }
    // A Node that the kubelet has just registered, and one that a person wrote.
    for text in [
        r#"{"metadata":{"name":"n","annotations":null},"spec":{},"status":null}"#,
        r#"{"metadata":{"name":"n","other":[{}]},"more":7}"#,
    ] {
        let node = Node::read(&names(), text.as_bytes()).unwrap();
        assert_eq!(node.sight(&names()).unwrap(), Sight::NoPeer);
    }
}

#[test]
fn the_condition_is_found() {
    let text = r#"{"metadata":{"name":"n"},"status":{"conditions":[
        {"type":"Ready","status":"True"},
        {"type":"NetworkUnavailable","status":"False","reason":"FlannelIsUp"}]}}"#;
    let node = Node::read(&names(), text.as_bytes()).unwrap();
    assert_eq!(node.network_unavailable.as_deref(), Some("False"));
}

#[test]
fn what_people_wrote_for_the_node_is_read() {
    let written = node(
        r#"{"node-public-ip": "198.51.100.7", "public-ip-overwrite": ""}"#,
        CIDR,
    );
    let read = |annotation| written.address(&names(), annotation);
    assert_eq!(
        read(Annotation::NodePublicIp).unwrap(),
        Some(Ipv4Addr::new(198, 51, 100, 7))
    );
    assert_eq!(read(Annotation::PublicIpOverwrite).unwrap(), None);
    let wrong = node(r#"{"node-public-ip": "host"}"#, CIDR);
    let error = wrong
        .address(&names(), Annotation::NodePublicIp)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("node-public-ip of node \"n1\" is \"host\""),
        "{error}"
    );
}
