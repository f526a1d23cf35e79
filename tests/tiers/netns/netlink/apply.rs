//! Peers on the device: what is set is observed, what is foreign stays, what fails is named.

use std::net::Ipv4Addr;

use anyhow::Result;
use twill_agent::netlink::Error;
use twill_core::observed::{ObservedDevice, ObservedLink, ObservedRoute};
use twill_core::plan::KernelOp;
use twill_core::vtep::MacAddr;
use twill_testbed::netns::Namespace;

use super::{Peer, UPLINK, apply, create, inside, link};

const PEERS: [Peer; 3] = [Peer(2), Peer(3), Peer(0x0203)];

fn set_all() -> Vec<KernelOp> {
    PEERS.iter().flat_map(|peer| peer.set()).collect()
}

fn remove_all() -> Vec<KernelOp> {
    PEERS.iter().flat_map(|peer| peer.remove()).collect()
}

/// What is on the device when all peers and nothing else are set.
fn all_set() -> ObservedLink {
    let route = |peer: &Peer| ObservedRoute {
        gateway: Some(peer.gateway().into()),
        onlink: true,
    };
    ObservedLink {
        routes: PEERS
            .iter()
            .map(|peer| (peer.subnet(), route(peer)))
            .collect(),
        neighbors: PEERS
            .iter()
            .map(|peer| (peer.gateway().into(), peer.mac()))
            .collect(),
        fdb: PEERS
            .iter()
            .map(|peer| (peer.mac(), peer.underlay()))
            .collect(),
        ..ObservedLink::default()
    }
}

/// What is observed, but for the device itself.
async fn observe(netlink: &twill_agent::netlink::Netlink) -> Result<ObservedLink> {
    let mut observed = super::observe(netlink).await?.unwrap();
    observed.device = ObservedDevice::default();
    Ok(observed)
}

#[test]
fn what_is_set_is_observed_and_what_is_removed_is_gone() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        create(&netlink).await?;
        apply(&netlink, &set_all()).await;
        assert_eq!(observe(&netlink).await?, all_set());

        let ip = |words: &str| namespace.run(&words.split(' ').collect::<Vec<_>>());
        assert_eq!(
            ip("ip route show 10.0.2.0/24")?.trim(),
            "10.0.2.0/24 via 10.0.2.0 dev flannel.1 onlink"
        );
        assert_eq!(
            ip("ip -details route show 10.0.2.0/24")?.trim(),
            "unicast 10.0.2.0/24 via 10.0.2.0 dev flannel.1 proto boot scope global onlink"
        );
        assert_eq!(
            ip("ip neigh show 10.0.2.0")?.trim(),
            "10.0.2.0 dev flannel.1 lladdr 02:00:00:01:00:02 PERMANENT"
        );
        let fdb = ip("bridge fdb show dev flannel.1")?;
        assert!(
            fdb.contains("02:00:00:01:00:02 dst 198.18.0.2 self permanent"),
            "{fdb}"
        );

        // Once more changes nothing.
        apply(&netlink, &set_all()).await;
        assert_eq!(observe(&netlink).await?, all_set());

        // Removing is done when it is gone, however often it is asked.
        for _ in 0..2 {
            apply(&netlink, &remove_all()).await;
            assert_eq!(observe(&netlink).await?, ObservedLink::default());
        }
        Ok(())
    })
}

#[test]
fn a_peer_that_moves_is_replaced() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        create(&netlink).await?;
        namespace.run_lines(
            "ip route add 10.0.2.0/24 dev eth0
             ip neigh add 10.0.2.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent
             bridge fdb add 02:00:00:01:00:02 dev flannel.1 dst 192.0.2.99 self permanent",
        )?;
        apply(&netlink, &set_all()).await;
        assert_eq!(observe(&netlink).await?, all_set());
        let routes = namespace.run(&["ip", "route", "show", "10.0.2.0/24"])?;
        assert_eq!(routes.lines().count(), 1, "{routes}");
        Ok(())
    })
}

#[test]
fn addresses_come_and_go_and_others_stay() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        create(&netlink).await?;
        namespace.run_lines("ip addr add 172.16.0.1/24 dev flannel.1")?;
        let own = "10.1.0.0/32".parse()?;
        let foreign = "172.16.0.1/24".parse()?;
        for _ in 0..2 {
            apply(
                &netlink,
                &[KernelOp::AddAddress {
                    link: link(),
                    address: own,
                }],
            )
            .await;
            assert_eq!(observe(&netlink).await?.addresses, [own, foreign].into());
        }
        for _ in 0..2 {
            apply(
                &netlink,
                &[KernelOp::RemoveAddress {
                    link: link(),
                    address: own,
                }],
            )
            .await;
            assert_eq!(observe(&netlink).await?.addresses, [foreign].into());
        }
        Ok(())
    })
}

/// Everything of everybody, line by line, that does not change by itself.
fn everything(namespace: &Namespace) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for command in [
        "ip -4 -d route show table all",
        "ip -4 neigh show nud permanent",
        "ip -4 neigh show nud stale",
        "bridge fdb show",
        "ip -4 addr show",
        "ip -d link show type vxlan",
        "ip link show",
    ] {
        let words: Vec<_> = command.split(' ').collect();
        lines.extend(namespace.run(&words)?.lines().map(str::to_owned));
    }
    lines.retain(|line| !line.contains("valid_lft"));
    Ok(lines)
}

#[test]
fn foreign_entries_are_reported_and_never_touched() -> Result<()> {
    let setup = format!(
        "{UPLINK}
         ip link add cni0 type bridge
         ip link set cni0 up
         ip addr add 10.1.0.1/24 dev cni0
         ip link add vxlan7 type vxlan id 7 local 192.0.2.1 dev eth0 dstport 4789
         ip link set vxlan7 up
         ip route add 10.7.0.0/24 dev vxlan7
         ip route add default via 192.0.2.254
         bridge fdb add 02:00:00:01:00:02 dev vxlan7 dst 192.0.2.77 self permanent
         ip neigh add 10.0.2.0 lladdr 02:00:00:00:00:77 dev eth0 nud permanent"
    );
    inside(&setup, async |namespace, netlink| {
        create(&netlink).await?;
        // On our own device: a route by another gateway, one outside the network, one beside
        // a peer's with a metric, one in another table; a neighbour; FDB entries, one with a
        // second destination for the MAC address of everybody and one with a port of its own.
        namespace.run_lines(
            "ip route add 10.9.0.0/24 via 10.9.0.1 dev flannel.1 onlink proto static
             ip route add 172.31.0.0/24 dev flannel.1
             ip route add 10.0.2.0/24 via 10.0.2.0 dev flannel.1 onlink metric 100
             ip route add 10.8.0.0/24 dev flannel.1 table 200
             ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:09 dev flannel.1 nud permanent
             ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:09 dev flannel.1 nud stale
             bridge fdb add 02:00:00:00:00:09 dev flannel.1 dst 192.0.2.9 self permanent
             bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 192.0.2.9 self permanent
             bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 192.0.2.10 self permanent
             bridge fdb add 02:00:00:00:00:08 dev flannel.1 dst 192.0.2.8 port 4789 self permanent",
        )?;
        let before = everything(namespace)?;

        let mut foreign = ObservedLink::default();
        let by: Ipv4Addr = "10.9.0.1".parse()?;
        let route = ObservedRoute {
            gateway: Some(by.into()),
            onlink: true,
        };
        let mac = "02:00:00:00:00:09".parse()?;
        foreign.routes.insert("10.9.0.0/24".parse()?, route);
        foreign.neighbors.insert(by.into(), mac);
        foreign.fdb.insert((mac, "192.0.2.9".parse()?));
        foreign.fdb.insert((MacAddr([0; 6]), "192.0.2.9".parse()?));
        foreign.fdb.insert((MacAddr([0; 6]), "192.0.2.10".parse()?));
        assert_eq!(observe(&netlink).await?, foreign);

        apply(&netlink, &set_all()).await;
        let mut both = all_set();
        both.routes.extend(foreign.routes.clone());
        both.neighbors.extend(foreign.neighbors.clone());
        both.fdb.extend(foreign.fdb.clone());
        assert_eq!(observe(&netlink).await?, both);

        apply(&netlink, &remove_all()).await;
        assert_eq!(observe(&netlink).await?, foreign);
        assert_eq!(everything(namespace)?, before);
        Ok(())
    })
}

#[test]
fn one_failure_stops_nothing_and_names_its_object() -> Result<()> {
    inside(UPLINK, async |_, netlink| {
        create(&netlink).await?;
        let mut ops = set_all();
        // The kernel refuses a multicast address as neighbour's gateway, and MTU 1.
        let bad = Peer(0xe000);
        let gateway = Ipv4Addr::new(224, 0, 0, 1);
        ops.insert(1, KernelOp::Set(bad.route(gateway)));
        ops.insert(
            4,
            KernelOp::SetMtu {
                link: link(),
                mtu: 1,
            },
        );
        let errors = netlink.apply(&ops).await;
        let failed: Vec<_> = errors.iter().map(|(op, _)| op.clone()).collect();
        assert_eq!(failed, [ops[1].clone(), ops[4].clone()], "{errors:?}");
        let texts: Vec<_> = errors
            .into_iter()
            .map(|(_, error)| format!("{:#}", anyhow::Error::from(error)))
            .collect();
        assert!(
            texts[0].starts_with("set route 10.224.0.0/24 via 224.0.0.1 dev flannel.1: "),
            "{texts:?}"
        );
        assert!(
            texts[1].starts_with("set the MTU of flannel.1 to 1: "),
            "{texts:?}"
        );
        assert!(
            texts.iter().all(|text| text.contains("nvalid")),
            "{texts:?}"
        );
        assert_eq!(observe(&netlink).await?, all_set());
        Ok(())
    })
}

#[test]
fn without_the_device_setting_fails_and_removing_is_done() -> Result<()> {
    inside(UPLINK, async |_, netlink| {
        assert_eq!(super::observe(&netlink).await?, None);
        apply(&netlink, &remove_all()).await;
        let errors = netlink.apply(&set_all()).await;
        assert_eq!(errors.len(), set_all().len());
        assert!(
            errors
                .iter()
                .all(|(_, error)| matches!(error, Error::NoDevice { .. }))
        );
        Ok(())
    })
}
