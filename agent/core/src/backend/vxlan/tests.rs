//! Leases of vxlan nodes, to the byte and back.

use super::*;
use crate::backend::Backend;
use crate::observed::{ObservedLink, ObservedRoute, UnderlayRoute};

const ATTRS: &str = r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}}"#;
const MAC: MacAddr = MacAddr([0x12, 0xc6, 0x65, 0x89, 0xb4, 0xe3]);

fn config() -> VxlanConfig {
    VxlanConfig {
        vni: Vni::new(1).unwrap(),
        port: None,
        mtu: None,
        gbp: false,
        learning: false,
        direct_routing: false,
    }
}

fn peer_of(lease: &Lease) -> Result<Peer, LeaseError> {
    Backend::Vxlan(config()).peer(lease, network())
}

fn network() -> Subnet {
    "10.3.0.0/16".parse().unwrap()
}

/// A good lease of `subnet`, in which `from` is replaced by `to`.
fn lease(subnet: &str, from: &str, to: &str) -> Lease {
    assert!(ATTRS.contains(from), "{from} is not in the text");
    Lease {
        subnet: subnet.parse().unwrap(),
        attrs: serde_json::from_str(&ATTRS.replace(from, to)).unwrap(),
        ttl_seconds: Some(86_400),
    }
}

#[test]
fn attributes_are_flannels_to_the_byte() {
    let published = attrs(Ipv4Addr::new(1, 2, 3, 4), Vni::new(1).unwrap(), MAC);
    assert_eq!(serde_json::to_string(&published).unwrap(), ATTRS);
    assert_eq!(
        serde_json::from_str::<LeaseAttrs>(ATTRS).unwrap(),
        published
    );
}

#[test]
fn vxlan_lease_names_a_vtep() {
    let expected = RemoteVtep {
        underlay: Ipv4Addr::new(1, 2, 3, 4).into(),
        mac: MAC,
    };
    for (from, to) in [
        ("1", "1"),
        // A peer's VNI is ignored, and may be missing.
        (r#""VNI":1,"#, ""),
        (r#""VNI":1,"#, r#""VNI":4294967295,"#),
        (r#""VNI":1,"#, r#""More":[],"#),
        ("12:c6:65:89:b4:e3", "12:C6:65:89:B4:E3"),
    ] {
        let vtep = peer_of(&lease("10.3.7.0/24", from, to));
        assert_eq!(vtep.unwrap(), Peer::Vtep(expected), "{to}");
    }
}

#[test]
fn other_backends_are_told_apart() {
    for (from, to, other) in [
        (r#""vxlan""#, r#""host-gw""#, "host-gw"),
        (r#""vxlan""#, r#""VXLAN""#, "VXLAN"),
        (r#""BackendType":"vxlan","#, "", ""),
    ] {
        match peer_of(&lease("10.3.7.0/24", from, to)) {
            Err(LeaseError::OtherBackend { backend_type, .. }) => {
                assert_eq!(backend_type, other);
            }
            result => panic!("{to}: {result:?}"),
        }
    }
}

#[test]
fn what_packets_cannot_be_sent_to_is_refused() {
    const DATA: &str = r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#;
    const IN: &str = "10.3.7.0/24";
    for (subnet, from, to, expected) in [
        (
            IN,
            "1.2.3.4",
            "0.0.0.0",
            "PublicIP of 10.3.7.0/24 is 0.0.0.0; ",
        ),
        (
            IN,
            "1.2.3.4",
            "127.0.0.1",
            "PublicIP of 10.3.7.0/24 is 127.0.0.1; ",
        ),
        (
            IN,
            "1.2.3.4",
            "224.0.0.1",
            "PublicIP of 10.3.7.0/24 is 224.0.0.1; ",
        ),
        (
            IN,
            "1.2.3.4",
            "255.255.255.255",
            "PublicIP of 10.3.7.0/24 is 255.255.255.255; ",
        ),
        (
            IN,
            "1.2.3.4",
            "10.3.7.1",
            "PublicIP of 10.3.7.0/24 is 10.3.7.1, in the lease's own",
        ),
        (IN, DATA, "null", "BackendData of 10.3.7.0/24 is missing; "),
        (IN, DATA, "[]", "BackendData of 10.3.7.0/24 is []; "),
        (
            IN,
            DATA,
            r#"{"VNI":1}"#,
            "BackendData of 10.3.7.0/24 is {\"VNI\":1}; ",
        ),
        (
            IN,
            "12:c6:65:89:b4:e3",
            "12:c6",
            "BackendData of 10.3.7.0/24 is {",
        ),
        (IN, "12:c6:65", "00:00:00", "ok"),
        (
            IN,
            "12:c6:65:89:b4:e3",
            "00:00:00:00:00:00",
            "VtepMAC of 10.3.7.0/24 is 00:00:",
        ),
        (
            IN,
            "12:c6",
            "13:c6",
            "VtepMAC of 10.3.7.0/24 is 13:c6:65:89:b4:e3; ",
        ),
        (
            IN,
            "12:c6:65:89:b4:e3",
            "ff:ff:ff:ff:ff:ff",
            "VtepMAC of 10.3.7.0/24 is ff:ff",
        ),
        (
            "10.4.7.0/24",
            "1",
            "1",
            "subnet 10.4.7.0/24 is not a part of the overlay 10.3.0.0/16",
        ),
        (
            "10.3.0.0/16",
            "1",
            "1",
            "subnet 10.3.0.0/16 is not a part of",
        ),
        (
            "10.2.0.0/15",
            "1",
            "1",
            "subnet 10.2.0.0/15 is not a part of",
        ),
        ("0.0.0.0/0", "1", "1", "subnet 0.0.0.0/0 is not a part of"),
        ("fd00::/64", "1", "1", "subnet fd00::/64 is not a part of"),
    ] {
        let result = peer_of(&lease(subnet, from, to));
        let text = result.map_or_else(|error| error.to_string(), |_| "ok".to_owned());
        assert!(text.starts_with(expected), "{subnet} {to}: {text}");
    }
}

#[test]
fn a_lease_is_read_from_a_route_with_its_neighbour_and_fdb_entry() {
    let mac = |n| MacAddr([2, 0, 0, 0, 0, n]);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let route = |gateway: Option<&str>| ObservedRoute {
        gateway: gateway.map(ip),
        onlink: true,
    };
    let subnet = |text: &str| text.parse::<Subnet>().unwrap();
    let link = ObservedLink {
        routes: [
            (subnet("10.244.2.0/24"), route(Some("10.244.2.0"))),
            // Half programmed, or somebody else's.
            (subnet("10.244.3.0/24"), route(Some("10.244.3.0"))),
            (subnet("10.244.4.0/24"), route(Some("10.244.4.0"))),
            (subnet("10.244.5.0/24"), route(None)),
        ]
        .into(),
        neighbors: [
            (ip("10.244.2.0"), mac(2)),
            (ip("10.244.3.0"), mac(3)),
            (ip("10.244.6.0"), mac(6)),
        ]
        .into(),
        fdb: [
            (mac(2), ip("192.0.2.2")),
            (mac(6), ip("192.0.2.6")),
            (mac(9), ip("192.0.2.9")),
        ]
        .into(),
        ..ObservedLink::default()
    };
    let via = |address| UnderlayRoute {
        via: ip(address),
        ifindex: 2,
    };
    let kernel = ObservedKernel {
        links: [("flannel.1".into(), link)].into(),
        underlay_routes: [
            (subnet("10.244.6.0/24"), via("192.0.2.6")),
            // Somebody else's.
            (subnet("10.244.7.0/24"), via("192.0.2.7")),
        ]
        .into(),
        ..ObservedKernel::default()
    };
    let vni = config().vni;
    let lease = |n: u8| Lease {
        subnet: subnet(&format!("10.244.{n}.0/24")),
        attrs: attrs(Ipv4Addr::new(192, 0, 2, n), vni, mac(n)),
        ttl_seconds: None,
    };
    assert_eq!(
        Backend::Vxlan(config()).leases(&kernel),
        [lease(2), lease(6)]
    );
}

#[test]
fn backend_data_is_read_as_go_reads_it() {
    let read = |data: &str| {
        let text = format!(
            r#"{{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendType":null,"BackendData":{data}}}"#
        );
        let attrs = LeaseAttrs::from_json(text.as_bytes()).unwrap();
        let subnet = "10.3.7.0/24".parse().unwrap();
        let lease = Lease {
            subnet,
            attrs,
            ttl_seconds: None,
        };
        peer_of(&lease).map(|peer| peer.mac().map(|mac| mac.to_string()))
    };
    for (data, mac) in [
        (
            r#"{"vtepmac":"12:c6:65:89:b4:e3"}"#,
            Some("12:c6:65:89:b4:e3"),
        ),
        (
            r#"{"vni":1,"VTEPMAC":"12-C6-65-89-B4-E3"}"#,
            Some("12:c6:65:89:b4:e3"),
        ),
        (
            r#"{"VNI":null,"VtepMAC":"12c6.6589.b4e3"}"#,
            Some("12:c6:65:89:b4:e3"),
        ),
        (
            r#"{"VtepMAC":"02:00:00:00:00:01","vtepmac":"02:00:00:00:00:02"}"#,
            Some("02:00:00:00:00:02"),
        ),
        (
            r#"{"vtepmac":"02:00:00:00:00:01","VtepMAC":"02:00:00:00:00:02"}"#,
            Some("02:00:00:00:00:02"),
        ),
        (r#"{"VtepMAC":null}"#, None),
        (r#"{"VNI":"1","VtepMAC":"12:c6:65:89:b4:e3"}"#, None),
        (
            r#"{"VtepMAC":"12:c6:65:89:b4:e3"},"backenddata":null"#,
            None,
        ),
        (r#"["1","12:c6:65:89:b4:e3"]"#, None),
    ] {
        assert_eq!(read(data).ok().flatten().as_deref(), mac, "{data}");
    }
}
