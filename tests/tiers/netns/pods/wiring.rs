//! Pods are found however they are wired, and nothing else is.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::timeout;
use twill_core::event::Event;
use twill_testbed::pod::Pod;
use twill_testbed::subnet_env::Delegate;

use super::{QUIET, Watched, on_a_node};

/// The interface index of the pod's veth on the node.
fn host_side(pod: &Pod) -> Result<u32> {
    let link = pod.namespace().link_json("eth0")?;
    let index = link["link_index"].as_u64().unwrap();
    Ok(u32::try_from(index)?)
}

/// Two pods come by the plugin, and one goes.
async fn come_and_go(
    watched: &mut Watched<'_>,
    delegate: Delegate,
    wiring: &'static str,
) -> Result<()> {
    let name = format!("{delegate:?}");
    assert!(watched.pods().await?.is_empty());
    let add = |label: &'static str| {
        move |watched: &Watched<'_>| Pod::add_by(delegate, watched.node, label, &watched.env)
    };
    let first = watched.change(add("1"))?;
    watched.sees(&format!("{name}: a pod"), &[wiring]).await?;
    let second = watched.change(add("2"))?;
    watched.sees(&format!("{name}: two"), &[wiring; 2]).await?;

    let pods = watched.pods().await?;
    for pod in [&first, &second] {
        assert!(pods[&host_side(pod)?].up);
    }
    let left = host_side(&second)?;
    drop(first);
    watched.change(|_| Ok(()))?;
    watched
        .sees(&format!("{name}: one gone"), &[wiring])
        .await?;
    assert!(watched.pods().await?.contains_key(&left));
    drop(second);
    watched.change(|_| Ok(()))?;
    watched.sees(&format!("{name}: none"), &[]).await
}

#[test]
fn pods_of_the_bridge_plugin_are_found() -> Result<()> {
    on_a_node(async |watched| come_and_go(watched, Delegate::Bridge, "Bridge").await)
}

#[test]
fn pods_of_the_ptp_plugin_are_found() -> Result<()> {
    on_a_node(async |watched| come_and_go(watched, Delegate::Ptp, "Routed").await)
}

#[test]
fn a_pod_is_no_reason_to_look_at_peers() -> Result<()> {
    on_a_node(async |watched| {
        for (delegate, label) in [(Delegate::Bridge, "b"), (Delegate::Ptp, "p")] {
            // The first makes the bridge and with it the subnet's route.
            let first = Pod::add_by(delegate, watched.node, label, &watched.env)?;
            while timeout(QUIET, watched.events.recv()).await.is_ok() {}
            let second = Pod::add_by(delegate, watched.node, &format!("{label}2"), &watched.env)?;
            let veth = watched.veth().await?;
            watched.run(&format!("tc qdisc add dev {veth} clsact"))?;
            drop(second);
            let mut heard = Vec::new();
            while let Ok(event) = timeout(QUIET, watched.events.recv()).await {
                heard.extend(event);
            }
            assert!(!heard.is_empty());
            assert!(
                heard.iter().all(|event| *event == Event::PodsChanged),
                "{delegate:?}: {heard:?}"
            );
            drop(first);
        }
        Ok(())
    })
}

#[test]
fn peers_and_the_uplink_are_no_reason_to_look_for_pods() -> Result<()> {
    on_a_node(async |watched| {
        watched.sees_no_change("at first", &[]).await?;
        watched.run(
            "ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
             ip route add 10.244.3.0/24 via 192.0.2.3 dev eth0
             ip route add 172.31.0.0/24 dev eth0
             ip neigh add 10.244.2.0 lladdr 02:00:00:00:00:0b dev flannel.1 nud permanent
             bridge fdb add 02:00:00:00:00:0b dev flannel.1 dst 192.0.2.2 self permanent
             ip addr add 10.244.1.3/32 dev flannel.1
             ip addr add 192.0.2.77/32 dev eth0
             ip link set flannel.1 mtu 1300
             tc qdisc add dev flannel.1 clsact
             tc qdisc add dev eth0 root handle 1: htb
             tc class add dev eth0 parent 1: classid 1:1 htb rate 1gbit
             ip route del 10.244.3.0/24
             ip route del 10.244.2.0/24",
        )?;
        while let Ok(event) = timeout(QUIET, watched.events.recv()).await {
            assert_eq!(event, Some(Event::KernelChanged));
        }
        Ok(())
    })
}

#[test]
fn pods_wired_as_calico_does_are_found_with_their_route() -> Result<()> {
    on_a_node(async |watched| {
        let pod = watched.empty_pod("1")?;
        let name = pod.name();
        watched.run(&format!(
            "ip link add cali0 type veth peer name eth0 netns {name}
             sysctl -qw net.ipv4.conf.cali0.proxy_arp=1
             ip link set cali0 up"
        ))?;
        watched.sees_no_change("no route yet", &[]).await?;
        watched.run("ip route add 10.244.1.9/32 dev cali0 scope link")?;
        watched.sees("Calico's route", &["Routed"]).await?;
        let found = watched.pods().await?;
        let veth = found.values().next().unwrap();
        assert_eq!((veth.name.as_str(), veth.up), ("cali0", false));

        watched.change(|_| pod.run(&["ip", "link", "set", "eth0", "up"]))?;
        watched.sees("the pod's side up", &["Routed"]).await?;
        assert!(watched.pods().await?.values().all(|veth| veth.up));

        // The address moves to another node: only the new route is told of.
        watched.run("ip route replace 10.244.1.9/32 via 192.0.2.2 dev eth0")?;
        watched.sees("the route moved", &[]).await?;
        watched.run("ip route replace 10.244.1.9/32 dev cali0")?;
        watched.sees("and back", &["Routed"]).await?;
        watched.run("ip route del 10.244.1.9/32")?;
        watched.sees("route removed", &[]).await?;
        watched.run("ip route add 10.244.1.8/29 dev cali0")?;
        watched.sees("a wider route", &["Routed"]).await?;
        watched.run("ip link del cali0")?;
        watched.sees("veth removed", &[]).await
    })
}

#[test]
fn pods_on_a_bridge_are_found_with_port_and_address() -> Result<()> {
    on_a_node(async |watched| {
        let pod = watched.empty_pod("1")?;
        let name = pod.name();
        watched.run(&format!(
            "ip link add cni0 type bridge
             ip addr add 10.244.1.1/24 dev cni0
             ip link set cni0 up
             ip link add veth1 type veth peer name eth0 netns {name}
             ip link set veth1 up"
        ))?;
        watched.sees_no_change("no port yet", &[]).await?;
        watched.run("ip link set veth1 master cni0")?;
        watched.sees("a port", &["Bridge"]).await?;
        watched.run("ip link set veth1 nomaster")?;
        watched.sees("no port any more", &[]).await?;
        watched.run("ip link set veth1 master cni0")?;
        watched.sees("a port again", &["Bridge"]).await?;
        watched.run("ip addr del 10.244.1.1/24 dev cni0")?;
        watched.sees("no address", &[]).await?;
        watched.run("ip addr add 10.244.1.1/24 dev cni0")?;
        watched.sees("an address again", &["Bridge"]).await?;
        // Of a bridge that is down, no route comes and goes with its address.
        watched.run("ip link set cni0 down")?;
        watched.sees_no_change("down", &["Bridge"]).await?;
        watched.run("ip addr del 10.244.1.1/24 dev cni0")?;
        watched.sees("no address while down", &[]).await?;
        watched.run("ip addr add 10.244.1.1/24 dev cni0")?;
        watched.sees("an address while down", &["Bridge"]).await?;
        watched.run("ip link del cni0")?;
        watched.sees("no bridge", &[]).await
    })
}

#[test]
fn pods_of_both_wirings_are_found_side_by_side() -> Result<()> {
    on_a_node(async |watched| {
        let _on_bridge = Pod::add_by(Delegate::Bridge, watched.node, "1", &watched.env)?;
        watched.sees_no_change("a port", &["Bridge"]).await?;
        let _routed = watched
            .change(|watched| Pod::add_by(Delegate::Ptp, watched.node, "2", &watched.env))?;
        watched.sees("and a route", &["Bridge", "Routed"]).await
    })
}

#[test]
fn what_is_no_pod_is_not_found() -> Result<()> {
    on_a_node(async |watched| {
        let elsewhere = watched.empty_pod("1")?;
        let name = elsewhere.name();
        watched.run(&format!(
            "ip link add cni0 type bridge
             ip addr add 10.244.1.1/24 dev cni0
             ip link set cni0 up
             ip link add docker0 type bridge
             ip addr add 172.17.0.1/16 dev docker0
             ip link set docker0 up
             ip link add other0 type veth peer name eth0 netns {name}
             ip link set other0 master docker0 up
             ip link add here0 type veth peer name here1
             ip link set here0 master cni0 up
             ip link set here1 up
             ip route add 10.244.1.21/32 dev here1
             ip link add stranger type veth peer name eth1 netns {name}
             ip link set stranger up
             ip addr add 172.31.0.1/30 dev stranger
             ip route add 10.244.2.9/32 dev stranger
             ip route add 10.244.1.22/32 dev stranger table 200
             ip route add blackhole 10.244.1.23/32
             ip link add link eth0 name mac0 type macvlan
             ip link set mac0 master cni0 up
             ip link add ifb7 type ifb
             ip link set ifb7 master cni0 up
             ip link set cni0 address 02:00:00:00:00:77
             ip route add 10.244.1.24/32 dev docker0
             ip route add 10.244.1.25/32 via 192.0.2.9 dev eth0
             ip route add 10.244.1.26/32 dev flannel.1"
        ))?;
        watched.sees_no_change("strangers", &[]).await?;
        // Proof that it still looks.
        watched.run("ip route add 10.244.1.27/32 dev stranger")?;
        watched.sees("a stranger no more", &["Routed"]).await?;
        let events = watched.monitor.counters();
        let undecodable = events
            .undecodable
            .load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(undecodable, 0);
        Ok(())
    })
}

#[test]
fn a_burst_of_pods_is_a_few_events() -> Result<()> {
    on_a_node(async |watched| {
        let pod = watched.empty_pod("1")?;
        let name = pod.name();
        watched.run(
            "ip link add cni0 type bridge
             ip addr add 10.244.1.1/24 dev cni0",
        )?;
        watched.sees_no_change("the bridge", &[]).await?;
        let mut lines = String::new();
        for index in 0..50 {
            writeln!(
                lines,
                "link add v{index} type veth peer name p{index} netns {name}"
            )?;
            writeln!(lines, "link set v{index} master cni0 up")?;
        }
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), lines)?;
        let before = Instant::now();
        watched.run(&format!("ip -batch {}", file.path().display()))?;
        let mut events = 0;
        while timeout(QUIET, watched.events.recv()).await.is_ok() {
            events += 1;
        }
        // The last wait was in vain.
        let took = before.elapsed().saturating_sub(QUIET);
        assert_eq!(watched.pods().await?.len(), 50);
        let most = took.as_millis() / Duration::from_millis(100).as_millis() + 2;
        assert!(events <= most, "{events} events in {took:?}");
        Ok(())
    })
}
