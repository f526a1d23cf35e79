//! host-gw: a route for each peer, past any tunnel, and nothing else.

use crate::backend::{Backend, Peer};
use crate::desired::Desired;
use crate::lease::{Lease, LeaseError};
use crate::observed::{Observed, UnderlayRoute};
use crate::plan::plan;
use crate::plan::tests::world::{apply, check, desired, fresh, parse, subnet, underlay};

fn host_gw(peers: &[u8]) -> Desired {
    Desired {
        backend: Backend::HostGw,
        link: None,
        peers: peers
            .iter()
            .map(|&n| (subnet(n), Peer::Gateway(underlay(n))))
            .collect(),
        ..desired(&[])
    }
}

/// A node with three others on its link, and the routes to `peers`.
fn settled(peers: &[u8]) -> Observed {
    let mut observed = Observed {
        maps: None,
        ..fresh(0, 0)
    };
    for n in 1..4 {
        observed.kernel.on_link.insert(underlay(n), 2);
    }
    let ops = plan(&observed, &host_gw(peers)).ops;
    apply(&mut observed, &ops);
    observed
}

#[test]
fn a_peer_comes_and_goes_with_its_route() {
    check(
        &settled(&[]),
        &host_gw(&[1, 2]),
        &[
            "direct route 10.244.1.0/24 via 192.168.0.1",
            "direct route 10.244.2.0/24 via 192.168.0.2",
        ],
    );
    check(&settled(&[1, 2]), &host_gw(&[1, 2]), &[]);
    check(
        &settled(&[1, 2]),
        &host_gw(&[2]),
        &["remove direct route 10.244.1.0/24 via 192.168.0.1"],
    );
}

#[test]
fn a_route_that_is_gone_or_leads_elsewhere_is_set_again() {
    let wanted = host_gw(&[1]);
    let again = &["direct route 10.244.1.0/24 via 192.168.0.1"];
    let mut observed = settled(&[1]);
    observed.kernel.underlay_routes.clear();
    check(&observed, &wanted, again);
    for (via, ifindex) in [(underlay(9), 2), (underlay(1), 3)] {
        let route = UnderlayRoute { via, ifindex };
        observed.kernel.underlay_routes.insert(subnet(1), route);
        check(&observed, &wanted, again);
    }
}

#[test]
fn a_peer_that_is_not_on_the_link_has_no_route() {
    check(&settled(&[]), &host_gw(&[9]), &[]);
}

#[test]
fn nothing_goes_before_the_list_is_complete_and_nothing_outside_the_network_ever() {
    let mut wanted = host_gw(&[]);
    wanted.complete = false;
    check(&settled(&[1]), &wanted, &[]);
    let mut observed = settled(&[]);
    let route = UnderlayRoute {
        via: underlay(1),
        ifindex: 2,
    };
    let routes = &mut observed.kernel.underlay_routes;
    routes.insert(parse("10.245.1.0/24"), route);
    check(&observed, &host_gw(&[]), &[]);
}

#[test]
fn what_is_published_is_flannels_and_read_back() {
    let attrs = Backend::HostGw
        .attrs([192, 168, 0, 1].into(), None)
        .unwrap();
    let text = r#"{"PublicIP":"192.168.0.1","PublicIPv6":null,"BackendType":"host-gw"}"#;
    assert_eq!(serde_json::to_string(&attrs).unwrap(), text);
    let lease = Lease {
        subnet: subnet(1),
        attrs,
        ttl_seconds: None,
    };
    let network = parse("10.244.0.0/16");
    let peer = Backend::HostGw.peer(&lease, network).unwrap();
    assert_eq!(peer, Peer::Gateway(underlay(1)));
    assert_eq!(
        Backend::HostGw.leases(&settled(&[1]).kernel),
        std::slice::from_ref(&lease)
    );

    let mut other = lease;
    other.attrs.backend_type = "vxlan".to_owned();
    let error = Backend::HostGw.peer(&other, network).unwrap_err();
    assert!(matches!(error, LeaseError::OtherBackend { .. }));
    let text = r#"BackendType of 10.244.1.0/24 is "vxlan", not "host-gw""#;
    assert_eq!(error.to_string(), text);
}
