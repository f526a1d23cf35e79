//! What is a pod, and what only looks like one.

use super::*;

/// What is found, as `name wiring`, after one change to the node.
fn check(what: &str, change: impl FnOnce(&mut HostLinks), expected: &[&str]) {
    let mut host = host();
    change(&mut host);
    let pods = find(&host, &rules());
    let found: Vec<String> = pods
        .values()
        .map(|pod| format!("{} {:?}", pod.name, pod.wiring))
        .collect();
    assert_eq!(found, expected, "{what}");
}

const BOTH: [&str; 2] = ["veth0 Bridge", "cali0 Routed"];

#[test]
fn pods_are_found_by_their_wiring() {
    check("both", |_| {}, &BOTH);
    for (what, veth) in [
        ("a subnet of several pods", routed("cali0", "10.244.1.8/29")),
        ("the whole subnet", routed("cali0", "10.244.1.0/24")),
    ] {
        check(what, |host| drop(host.links.insert(CALI, veth)), &BOTH);
    }
    check(
        "a port with a route is a port",
        |host| {
            let veth = HostLink {
                master: Some(CNI0),
                ..routed("both", "10.244.1.3/32")
            };
            host.links.insert(VETH, veth);
        },
        &["both Bridge", "cali0 Routed"],
    );
    check(
        "a port of another bridge with a route",
        |host| {
            host.links.insert(3, bridge("docker0", "172.17.0.1/16"));
            let veth = HostLink {
                master: Some(3),
                ..routed("odd", "10.244.1.3/32")
            };
            host.links.insert(VETH, veth);
        },
        &["odd Routed", "cali0 Routed"],
    );
    check(
        "two bridges",
        |host| {
            host.links.insert(3, bridge("docker0", "10.244.1.129/25"));
            host.links.insert(9, port("veth9", 3));
        },
        &["veth0 Bridge", "cali0 Routed", "veth9 Bridge"],
    );
    check(
        "an address of the subnet among others",
        |host| {
            let mut cni0 = bridge("cni0", "10.244.1.1/24");
            cni0.addresses.insert("172.17.0.1/16".parse().unwrap());
            host.links.insert(CNI0, cni0);
        },
        &BOTH,
    );
}

#[test]
fn what_only_looks_like_a_pod_is_none() {
    const CALI: [&str; 1] = ["cali0 Routed"];
    let here = |veth| HostLink {
        peer_elsewhere: false,
        ..veth
    };
    let tap = HostLink {
        kind: "tun".to_owned(),
        ..port("tap0", CNI0)
    };
    for (what, ifindex, other, expected) in [
        ("no veth", VETH, tap, &CALI[..]),
        ("other end here", VETH, here(port("veth0", CNI0)), &CALI),
        ("no port", VETH, link("veth0", "veth"), &CALI),
        ("master is no bridge", CNI0, link("cni0", "bond"), &CALI),
        (
            "bridge without the subnet's address",
            CNI0,
            bridge("cni0", "10.244.2.1/24"),
            &CALI,
        ),
        (
            "an address of the network, not of the subnet",
            CNI0,
            bridge("cni0", "10.244.0.1/16"),
            &CALI,
        ),
        (
            "the uplink",
            UPLINK,
            routed("eth0", "10.244.1.77/32"),
            &BOTH,
        ),
        ("the uplink as a port", UPLINK, port("eth0", CNI0), &BOTH),
        (
            "route to another subnet",
            9,
            routed("veth9", "10.244.2.9/32"),
            &BOTH,
        ),
        (
            "route to the network",
            9,
            routed("veth9", "10.244.0.0/16"),
            &BOTH,
        ),
        ("default route", 9, routed("veth9", "0.0.0.0/0"), &BOTH),
        (
            "our own device",
            9,
            HostLink {
                kind: "vxlan".to_owned(),
                ..routed("flannel.1", "10.244.1.0/32")
            },
            &BOTH,
        ),
        (
            "route, other end here",
            9,
            here(routed("veth9", "10.244.1.3/32")),
            &BOTH,
        ),
    ] {
        let change = |host: &mut HostLinks| drop(host.links.insert(ifindex, other));
        check(what, change, expected);
    }
    check(
        "bridge is gone",
        |host| drop(host.links.remove(&CNI0)),
        &CALI,
    );
}
