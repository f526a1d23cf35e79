//! Which interface and which address the overlay takes.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use twill_agent::netlink::{Netlink, Overlay, UplinkChoice, UplinkTerms};
use twill_core::uplink::Uplink;
use twill_testbed::netns::Namespace;

use super::{UPLINK, inside};

/// Two uplinks: `eth0` with a default route, and `eth1` with several addresses.
const TWO: &str =
    "ip link add name eth1 address 02:00:c0:00:01:01 mtu 9000 type veth peer name wire1
    ip addr add 169.254.7.7/16 dev eth1
    ip addr add 198.51.100.9/24 dev eth1 valid_lft 1000 preferred_lft 0
    ip addr add 198.51.100.1/24 dev eth1 valid_lft 1000 preferred_lft 500
    ip addr add 203.0.113.1/24 dev eth1
    ip link set dev wire1 up
    ip link set dev eth1 up
    ip link add name bare type veth peer name wire2
    ip route add 10.200.0.0/16 via 198.51.100.254 dev eth1 src 198.51.100.1";

fn name(text: &str) -> UplinkChoice {
    UplinkChoice::Name(text.to_owned())
}

fn address(text: &str) -> UplinkChoice {
    UplinkChoice::Address(text.parse().unwrap())
}

fn matching(pattern: &str) -> UplinkChoice {
    UplinkChoice::Matching(regex::Regex::new(pattern).unwrap())
}

fn can_reach(text: &str) -> UplinkChoice {
    UplinkChoice::CanReach(text.parse().unwrap())
}

fn public(address: Ipv4Addr) -> UplinkTerms {
    UplinkTerms {
        public_ip: Some(address),
        ..UplinkTerms::default()
    }
}

fn ifindex(namespace: &Namespace, link: &str) -> Result<u32> {
    let told = namespace.link_json(link)?["ifindex"].as_u64();
    Ok(u32::try_from(told.unwrap())?)
}

#[test]
fn the_uplink_is_what_was_asked_for() -> Result<()> {
    let setup = format!("{UPLINK}\n{TWO}\nip route add default via 192.0.2.254");
    inside(&setup, async |namespace, netlink| {
        let table = [
            (UplinkChoice::DefaultRoute, "eth0", "192.0.2.1"),
            (name("eth0"), "eth0", "192.0.2.1"),
            (name("eth1"), "eth1", "203.0.113.1"),
            (address("198.51.100.1"), "eth1", "198.51.100.1"),
            (address("192.0.2.1"), "eth0", "192.0.2.1"),
            (matching(r"^203\.0"), "eth1", "203.0.113.1"),
            // Not the one that is deprecated.
            (matching(r"^198\.51"), "eth1", "198.51.100.1"),
            (matching("^eth1$"), "eth1", "203.0.113.1"),
            // Addresses come before names, and the loopback is never meant.
            (matching("0[.]1$|eth1"), "eth1", "198.51.100.1"),
            (matching("^(127|eth0)"), "eth0", "192.0.2.1"),
            (can_reach("192.0.2.7"), "eth0", "192.0.2.1"),
            (can_reach("8.8.8.8"), "eth0", "192.0.2.1"),
            (can_reach("10.200.3.4"), "eth1", "198.51.100.1"),
            // The same word for all nodes may name one of them.
            (can_reach("192.0.2.1"), "eth0", "192.0.2.1"),
        ];
        for (choice, interface, address) in table {
            let uplink = netlink.uplink(&choice, &UplinkTerms::default()).await?;
            let seen = (uplink.name.as_str(), uplink.address.to_string());
            assert_eq!(seen, (interface, address.to_owned()), "{choice:?}");
            assert_eq!([uplink.public_ip, uplink.local], [uplink.address; 2]);
        }

        let public_ip = Ipv4Addr::new(198, 51, 100, 200);
        let terms = public(public_ip);
        let uplink = netlink.uplink(&name("eth1"), &terms).await?;
        let expected = Uplink {
            ifindex: ifindex(namespace, "eth1")?,
            name: "eth1".to_owned(),
            mtu: 9000,
            mac: "02:00:c0:00:01:01".parse()?,
            address: Ipv4Addr::new(203, 0, 113, 1),
            public_ip,
            local: Ipv4Addr::new(203, 0, 113, 1),
        };
        assert_eq!(uplink, expected);

        // One that the host has, though on another interface.
        let elsewhere = Ipv4Addr::new(192, 0, 2, 1);
        let uplink = netlink.uplink(&name("eth1"), &public(elsewhere)).await?;
        assert_eq!([uplink.public_ip, uplink.local], [elsewhere; 2]);
        Ok(())
    })
}

/// What a CNI plugin and the agent itself make matches as well as anything.
#[test]
fn an_expression_finds_nothing_of_the_overlay_and_keeps_what_it_found() -> Result<()> {
    let setup = format!(
        "{UPLINK}
         ip link add name cni0 type bridge
         ip addr add 10.244.1.1/24 dev cni0
         ip link add name flannel.1 type bridge
         ip addr add 192.0.2.77/32 dev flannel.1
         ip link add name eth1 type bridge
         ip addr add 198.51.100.1/24 dev eth1
         ip addr del 192.0.2.1/24 dev eth0"
    );
    inside(&setup, async |namespace, netlink| {
        let mut terms = UplinkTerms {
            overlay: Some(Overlay {
                device: Some("flannel.1".to_owned()),
                pods: "10.244.1.0".parse()?..="10.244.255.255".parse()?,
            }),
            ..UplinkTerms::default()
        };
        for pattern in [r"^(10|192\.0)[.]", "^(cni|flannel)"] {
            let found = netlink.uplink(&matching(pattern), &terms).await;
            assert!(found.is_err(), "{pattern}: {found:?}");
        }
        let refused = netlink.uplink(&name("flannel.1"), &terms).await;
        let refused = refused.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
        let said = refused.unwrap_err();
        assert!(said.contains("flannel.1 is the overlay's own"), "{said}");

        // eth0 has no address for a moment; another one that matches is not what was meant.
        let any = matching(r"^[0-9.]+$|^eth");
        assert_eq!(netlink.uplink(&any, &terms).await?.name, "eth1");
        terms.present = Some(ifindex(namespace, "eth0")?);
        let away = netlink.uplink(&any, &terms).await;
        assert!(away.is_err(), "{away:?}");
        namespace.run_lines("ip addr add 192.0.2.9/24 dev eth0")?;
        let back = netlink.uplink(&any, &terms).await?;
        assert_eq!(
            (back.name.as_str(), back.address),
            ("eth0", "192.0.2.9".parse()?)
        );
        namespace.run_lines("ip link del eth0")?;
        assert_eq!(netlink.uplink(&any, &terms).await?.name, "eth1");
        Ok(())
    })
}

/// The node is reached by a routing protocol, at an address that no wire has.
#[test]
fn an_address_on_the_loopback_is_as_good_as_any() -> Result<()> {
    let setup = format!(
        "{UPLINK}
         ip link set dev lo up
         ip addr add 203.0.113.1/32 dev lo
         ip route add default via 192.0.2.254
         ip route add 203.0.113.2 via 192.0.2.2 src 203.0.113.1"
    );
    inside(&setup, async |_, netlink| {
        let table = [
            (name("lo"), "lo", 65_536),
            (address("203.0.113.1"), "lo", 65_536),
            (can_reach("203.0.113.1"), "lo", 65_536),
            (matching(r"^203\.0\.113\."), "lo", 65_536),
            (can_reach("203.0.113.2"), "eth0", 1500),
        ];
        for (choice, interface, mtu) in table {
            let uplink = netlink.uplink(&choice, &UplinkTerms::default()).await?;
            let seen = (uplink.name.as_str(), uplink.mtu, uplink.local.to_string());
            let expected = (interface, mtu, "203.0.113.1".to_owned());
            assert_eq!(seen, expected, "{choice:?}");
        }
        // An expression that matches more means another interface, as ever.
        for pattern in [r"^\d+\.", "^(lo|eth0)$"] {
            let choice = matching(pattern);
            let uplink = netlink.uplink(&choice, &UplinkTerms::default()).await?;
            assert_eq!(uplink.name, "eth0", "{pattern}");
        }
        Ok(())
    })
}

/// Which address of `eth0` is the node's own, by what `ip` makes of it.
#[test]
fn an_address_that_fails_over_is_not_taken_for_the_node_s_own() -> Result<()> {
    let setup = "ip link add name eth0 type veth peer name wire
        ip addr add 192.0.2.1/24 dev eth0 valid_lft 1000 preferred_lft 500
        ip link set dev wire up
        ip link set dev eth0 up";
    inside(setup, async |namespace, netlink| {
        let own = async |terms: &UplinkTerms| {
            let uplink = netlink.uplink(&name("eth0"), terms).await?;
            anyhow::Ok(uplink.address.to_string())
        };
        let mut terms = UplinkTerms::default();
        for (vip, flags) in [
            ("192.0.2.100/32", ""),
            ("192.0.2.100/24", ""),
            ("198.51.100.7/24", "label eth0:vip"),
            ("198.51.100.7/24", "scope host"),
        ] {
            namespace.run_lines(&format!("ip addr add {vip} dev eth0 {flags}"))?;
            assert_eq!(own(&terms).await?, "192.0.2.1", "{vip} {flags}");
            namespace.run_lines(&format!("ip addr del {vip} dev eth0"))?;
        }
        // Nothing tells this one from the host's own but who was first, and who is told.
        namespace.run_lines("ip addr add 198.51.100.7/24 dev eth0")?;
        assert_eq!(own(&terms).await?, "198.51.100.7");
        terms.last = Some("192.0.2.1".parse()?);
        assert_eq!(own(&terms).await?, "192.0.2.1");
        terms.elsewhere = ["192.0.2.1".parse()?].into();
        assert_eq!(own(&terms).await?, "198.51.100.7");
        Ok(())
    })
}

/// A second default route with a better metric: a VPN that comes up.
#[test]
fn an_uplink_is_kept_as_long_as_it_leads_to_other_nodes() -> Result<()> {
    let setup = format!(
        "{UPLINK}
         ip link add name eth1 type veth peer name wire1
         ip addr add 198.51.100.1/24 dev eth1
         ip link set dev wire1 up
         ip link set dev eth1 up
         ip route add default via 192.0.2.254 dev eth0 metric 100
         ip route add default via 198.51.100.254 dev eth1 metric 50"
    );
    inside(&setup, async |namespace, netlink| {
        let mut terms = UplinkTerms {
            present: Some(ifindex(namespace, "eth0")?),
            last: Some("192.0.2.1".parse()?),
            ..UplinkTerms::default()
        };
        let kept = async |choice: UplinkChoice, terms: &UplinkTerms| {
            let kept = netlink.present_uplink(&choice, terms).await?;
            anyhow::Ok(kept.map(|uplink| uplink.name))
        };
        let eth0 = || Some("eth0".to_owned());
        let default = || UplinkChoice::DefaultRoute;
        assert_eq!(netlink.uplink(&default(), &terms).await?.name, "eth1");
        assert_eq!(kept(default(), &terms).await?, eth0());
        assert_eq!(kept(can_reach("8.8.8.8"), &terms).await?, eth0());
        assert_eq!(kept(name("eth0"), &terms).await?, eth0());
        assert_eq!(kept(address("192.0.2.1"), &terms).await?, eth0());
        assert_eq!(kept(matching("^eth"), &terms).await?, eth0());
        // The flags mean another one now.
        assert_eq!(kept(name("eth1"), &terms).await?, None);
        assert_eq!(kept(address("198.51.100.1"), &terms).await?, None);

        // Without a default route it still leads to nodes on the link.
        namespace.run_lines("ip route del default metric 100")?;
        assert_eq!(kept(default(), &terms).await?, None);
        terms.nodes = vec!["203.0.113.9".parse()?, "192.0.2.2".parse()?];
        assert_eq!(kept(default(), &terms).await?, eth0());
        namespace.run_lines("ip route del 192.0.2.0/24 dev eth0")?;
        assert_eq!(kept(default(), &terms).await?, None);
        assert_eq!(kept(can_reach("192.0.2.2"), &terms).await?, None);
        namespace.run_lines("ip route add 192.0.2.0/24 dev eth0")?;
        assert_eq!(kept(default(), &terms).await?, eth0());

        let eth0 = terms.present.unwrap();
        assert!(!netlink.is_down(eth0).await?);
        // The cable is pulled.
        namespace.run_lines("ip link set dev wire down")?;
        assert_eq!(kept(default(), &terms).await?, None);
        assert!(netlink.is_down(eth0).await?);
        namespace.run_lines("ip link set dev wire up")?;
        assert!(kept(default(), &terms).await?.is_some());
        namespace.run_lines("ip addr flush dev eth0")?;
        assert_eq!(kept(default(), &terms).await?, None);
        namespace.run_lines("ip link del eth0")?;
        assert_eq!(kept(default(), &terms).await?, None);
        assert!(!netlink.is_down(eth0).await?);
        Ok(())
    })
}

#[test]
fn the_default_route_with_the_lowest_metric_counts() -> Result<()> {
    let setup = format!(
        "{UPLINK}\n{TWO}
         ip route add default via 192.0.2.254 metric 200
         ip route add default via 203.0.113.254 dev eth1 metric 100"
    );
    inside(&setup, async |_, netlink| {
        let uplink = netlink
            .uplink(&UplinkChoice::DefaultRoute, &UplinkTerms::default())
            .await?;
        assert_eq!(uplink.name, "eth1");
        Ok(())
    })
}

async fn refusal(netlink: &Netlink, choice: UplinkChoice) -> String {
    let error = netlink
        .uplink(&choice, &UplinkTerms::default())
        .await
        .unwrap_err();
    format!("{:#}", anyhow::Error::from(error))
}

async fn check_refusals(_: &Namespace, netlink: Netlink) -> Result<()> {
    let table = [
        (
            UplinkChoice::DefaultRoute,
            "unable to find default route in the main table; add one, or name the uplink with \
             --iface (interfaces here: wire, eth0, wire1, eth1, wire2, bare)",
        ),
        (
            name("eth7"),
            "no interface \"eth7\"; interfaces here: wire, eth0, wire1, eth1, wire2, bare",
        ),
        (
            matching("^wlan"),
            "could not match pattern ^wlan to any of the available network interfaces (wire, \
             eth0, wire1, eth1, wire2, bare; addresses here: 127.0.0.1, 192.0.2.1, 169.254.7.7, \
             198.51.100.9, 198.51.100.1, 203.0.113.1)",
        ),
        (
            name("a-name-longer-than-any-interface"),
            "no interface \"a-name-longer-than-any-interface\"; interfaces here: wire, eth0, \
             wire1, eth1, wire2, bare",
        ),
        (
            name("bare"),
            "failed to find IPv4 address for interface bare (found: none); give it a global or \
             link-local one, or name another interface with --iface",
        ),
        (
            name("lo"),
            "interface lo is the loopback; name one that other nodes can reach",
        ),
        (
            address("192.0.2.99"),
            "no interface has the address 192.0.2.99; addresses here: 127.0.0.1, 192.0.2.1, \
             169.254.7.7, 198.51.100.9, 198.51.100.1, 203.0.113.1",
        ),
        (
            can_reach("8.8.8.8"),
            "no route to 8.8.8.8; give an address that this node can reach: Network is \
             unreachable",
        ),
        (
            can_reach("127.0.0.1"),
            "interface lo is the loopback; name one that other nodes can reach",
        ),
        (
            address("127.0.0.1"),
            "interface lo is the loopback; name one that other nodes can reach",
        ),
    ];
    for (choice, text) in table {
        let said = refusal(&netlink, choice.clone()).await;
        // The kernel lists links and addresses in no promised order.
        assert_eq!(sorted(&said), sorted(text), "{choice:?}: {said}");
    }
    let six = UplinkChoice::Address(IpAddr::V6("2001:db8::1".parse()?));
    assert!(
        refusal(&netlink, six)
            .await
            .starts_with("no interface has the address 2001:db8::1")
    );
    Ok(())
}

fn sorted(text: &str) -> Vec<&str> {
    let mut words: Vec<_> = text
        .split([' ', ',', ')', ';'])
        .filter(|w| !w.is_empty())
        .collect();
    words.sort_unstable();
    words
}

#[test]
fn a_refusal_names_the_interface_and_what_would_be_right() -> Result<()> {
    let setup = format!("{UPLINK}\n{TWO}");
    inside(&setup, check_refusals)
}

#[test]
fn a_default_route_with_several_next_hops_is_refused_with_their_names() -> Result<()> {
    let setup = format!(
        "{UPLINK}\n{TWO}
         ip route add default nexthop via 192.0.2.254 dev eth0 nexthop via 203.0.113.254 dev eth1"
    );
    inside(&setup, async |_, netlink| {
        let said = refusal(&netlink, UplinkChoice::DefaultRoute).await;
        assert!(
            said.starts_with(
                "found default route but could not determine interface: it has several next \
                 hops, by "
            ),
            "{said}"
        );
        assert!(said.contains("eth0") && said.contains("eth1"), "{said}");
        assert!(!said.contains("wire") && !said.contains("bare"), "{said}");
        Ok(())
    })
}
