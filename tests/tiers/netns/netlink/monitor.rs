//! What the monitor hears, what it takes for no news, and what it survives.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::time::timeout;
use twill_agent::netlink::Netlink;
use twill_agent::netlink::monitor::{Monitor, RECEIVE_BUFFER_BYTES, Watch};
use twill_core::event::Event;
use twill_core::plan::KernelOp;
use twill_testbed::netns::Namespace;
use twill_testbed::world::OVERLAY_LINK;

use super::{Peer, UPLINK, apply, create, inside, link, network, observe};

/// Time in which an event must come.
const SOON: Duration = Duration::from_secs(5);
/// Time in which none may come: many times the monitor's own delays.
const QUIET: Duration = Duration::from_millis(600);

pub(super) struct Ear {
    pub(super) monitor: Monitor,
    events: mpsc::Receiver<Event>,
}

impl Ear {
    /// Listens to the namespace of this thread, with `eth0` for the uplink.
    async fn new(netlink: &Netlink, capacity: usize, receive_buffer: usize) -> Result<Self> {
        let (sender, events) = mpsc::channel(capacity);
        let watch = Watch {
            device: Some(OVERLAY_LINK.to_owned()),
            network: network(),
            every_route: false,
            receive_buffer,
        };
        let monitor = Monitor::start(netlink.clone(), watch, sender).await?;
        let uplink = netlink.device("eth0").await?.context("eth0")?;
        monitor.watch_uplink(Some(uplink.ifindex));
        Ok(Self { monitor, events })
    }

    /// The next event that is not about pods.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.events.recv().await;
            if event != Some(Event::PodsChanged) {
                return event;
            }
        }
    }

    /// One event and no other one, whatever number of changes it stands for.
    pub(super) async fn hears(&mut self, what: &str) {
        let event = timeout(SOON, self.next()).await;
        assert_eq!(event, Ok(Some(Event::KernelChanged)), "{what}");
    }

    pub(super) async fn hears_nothing(&mut self, what: &str) {
        let event = timeout(QUIET, self.next()).await;
        assert!(event.is_err(), "{what}: {event:?}");
    }

    /// Until nothing comes any more.
    async fn settles(&mut self) {
        while timeout(QUIET, self.next()).await.is_ok() {}
    }
}

pub(super) async fn listening(netlink: &Netlink) -> Result<Ear> {
    create(netlink).await?;
    let peer: Vec<KernelOp> = Peer(2).set().into();
    apply(netlink, &peer).await;
    let mut ear = Ear::new(netlink, 8, RECEIVE_BUFFER_BYTES).await?;
    ear.settles().await;
    Ok(ear)
}

fn each_line(
    namespace: &Namespace,
    lines: &'static str,
) -> impl Iterator<Item = Result<&'static str>> {
    lines
        .lines()
        .map(str::trim)
        .map(move |line| namespace.run_lines(line).map(|()| line))
}

#[test]
fn what_others_change_is_heard() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        let mut ear = listening(&netlink).await?;
        let changes = "ip route del 10.0.2.0/24
            ip route add 10.0.2.0/24 via 10.0.2.0 dev flannel.1 onlink
            ip route replace 10.0.2.0/24 dev eth0
            ip route add 172.31.0.0/24 dev flannel.1
            ip route add default via 192.0.2.254
            ip route del default
            ip neigh replace 10.0.2.0 lladdr 02:00:00:00:00:66 dev flannel.1 nud permanent
            ip neigh del 10.0.2.0 dev flannel.1
            bridge fdb replace 02:00:00:01:00:02 dev flannel.1 dst 192.0.2.66 self permanent
            bridge fdb del 02:00:00:01:00:02 dev flannel.1 dst 192.0.2.66 self
            ip addr add 10.1.0.0/32 dev flannel.1
            ip addr del 10.1.0.0/32 dev flannel.1
            ip link set flannel.1 mtu 1300
            ip link set flannel.1 address 02:00:00:00:00:66
            ip link set flannel.1 down
            ip link set eth0 mtu 1400
            ip addr add 192.0.2.5/24 dev eth0
            ip addr del 192.0.2.5/24 dev eth0
            ip link set eth0 down
            ip link del flannel.1
            ip link add flannel.1 type bridge
            ip link set flannel.1 name other
            ip link del eth0";
        for line in each_line(namespace, changes) {
            let line = line?;
            ear.hears(line).await;
            ear.settles().await;
        }
        Ok(())
    })
}

#[test]
fn what_cannot_matter_is_not_heard() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        let mut ear = listening(&netlink).await?;
        // A pod comes, gets its host route, and goes.
        let changes = "ip link add veth1 type veth peer name pod1
            ip link set veth1 up
            ip link set pod1 up
            ip addr add 172.30.0.1/24 dev veth1
            ip route add 10.1.0.7/32 dev veth1
            ip neigh add 10.1.0.7 lladdr 02:00:00:00:07:07 dev veth1 nud permanent
            ip route add 203.0.113.0/24 dev veth1
            ip route add 10.3.0.0/24 dev veth1 table 200
            bridge fdb add 02:00:00:00:07:08 dev veth1 self permanent
            ip link del veth1";
        for line in each_line(namespace, changes) {
            line?;
        }
        ear.hears_nothing("a pod").await;
        // The proof that it still listens.
        namespace.run_lines("ip link set flannel.1 down")?;
        ear.hears("our device").await;
        Ok(())
    })
}

#[test]
fn our_own_changes_are_no_news() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        let mut ear = listening(&netlink).await?;
        let own: Vec<KernelOp> = (3..500).map(Peer).flat_map(Peer::set).collect();
        apply(&netlink, &own).await;
        ear.hears_nothing("peers that we set").await;
        apply(
            &netlink,
            &[KernelOp::AddAddress {
                link: link(),
                address: "10.1.0.0/32".parse()?,
            }],
        )
        .await;
        ear.hears_nothing("an address that we added").await;
        // But the last address takes all routes with it, without a word.
        apply(
            &netlink,
            &[KernelOp::RemoveAddress {
                link: link(),
                address: "10.1.0.0/32".parse()?,
            }],
        )
        .await;
        ear.hears("an address that we removed").await;
        assert!(observe(&netlink).await?.unwrap().routes.is_empty());
        let own: Vec<KernelOp> = (3..500).map(Peer).flat_map(Peer::remove).collect();
        apply(&netlink, &own).await;
        ear.hears_nothing("peers that we removed").await;
        // What somebody takes from us is news.
        namespace
            .run_lines("bridge fdb del 02:00:00:01:00:02 dev flannel.1 dst 198.18.0.2 self")?;
        ear.hears("an FDB entry that was taken").await;
        Ok(())
    })
}

#[test]
fn without_an_uplink_every_link_and_address_matters() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        let mut ear = listening(&netlink).await?;
        ear.monitor.watch_uplink(None);
        namespace.run_lines("ip link add name eth7 type veth peer name wire7")?;
        ear.hears("a new link").await;
        ear.settles().await;
        namespace.run_lines("ip addr add 203.0.113.7/24 dev eth7")?;
        ear.hears("a new address").await;
        Ok(())
    })
}

/// Floods the namespace with `count` route changes while this thread, and the monitor's task
/// with it, does nothing else.
fn flood(namespace: &Namespace, count: u16) -> Result<()> {
    let mut batch = String::new();
    for peer in (1..=count).map(Peer) {
        writeln!(batch, "route replace {} dev eth0", peer.subnet())?;
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), batch)?;
    let path = file.path().to_str().context("path")?;
    namespace.run(&["ip", "-batch", path])?;
    Ok(())
}

#[test]
fn an_overrun_is_a_change_and_the_monitor_hears_on() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        create(&netlink).await?;
        let mut ear = Ear::new(&netlink, 8, 16 << 10).await?;
        ear.settles().await;
        flood(namespace, 20_000)?;
        ear.hears("the flood").await;
        let overruns = ear.monitor.counters().overruns.load(Ordering::Relaxed);
        assert!(overruns > 0, "the flood was heard whole: it proves nothing");
        ear.settles().await;
        // The device may have become another one unheard.
        for change in ["ip link set flannel.1 mtu 1300", "ip link del flannel.1"] {
            namespace.run_lines(change)?;
            ear.hears(change).await;
            ear.settles().await;
        }
        Ok(())
    })
}

#[test]
fn a_device_that_was_replaced_during_an_overrun_is_found_again() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        create(&netlink).await?;
        let mut ear = Ear::new(&netlink, 8, 16 << 10).await?;
        ear.settles().await;
        flood(namespace, 5000)?;
        namespace.run_lines(
            "ip link del flannel.1
             ip link add flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472
             ip link set flannel.1 up",
        )?;
        ear.hears("the flood").await;
        assert!(ear.monitor.counters().overruns.load(Ordering::Relaxed) > 0);
        ear.settles().await;
        // Known by its new index alone: the notification does not carry the name.
        namespace.run_lines(
            "ip neigh add 10.0.9.0 lladdr 02:00:00:00:00:66 dev flannel.1 nud permanent",
        )?;
        ear.hears("a neighbour on the new device").await;
        Ok(())
    })
}

#[test]
fn a_full_channel_loses_no_change() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        create(&netlink).await?;
        let mut ear = Ear::new(&netlink, 1, RECEIVE_BUFFER_BYTES).await?;
        ear.settles().await;
        let sent = || ear.monitor.counters().events.load(Ordering::Relaxed);
        let before = sent();
        namespace.run_lines("ip link set flannel.1 mtu 1300")?;
        timeout(SOON, async {
            while sent() == before {
                tokio::task::yield_now().await;
            }
        })
        .await?;
        // The channel is full now: this one has to be remembered.
        namespace.run_lines("ip link set flannel.1 mtu 1200")?;
        tokio::time::sleep(QUIET).await;
        assert_eq!(sent(), before + 1);
        ear.hears("the first").await;
        ear.hears("the second").await;
        ear.hears_nothing("a third").await;
        Ok(())
    })
}
