//! Many peers, and a table full of other people's routes: figures, and generous limits.

use std::ffi::OsStr;
use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use twill_agent::netlink::Netlink;
use twill_core::plan::KernelOp;
use twill_testbed::netns::Namespace;
use twill_testbed::world::OVERLAY_LINK;

use super::{Peer, UPLINK, apply, create, inside, observe};

/// The limits are for a debug build on a busy machine; what is measured is printed.
const LIMIT: Duration = Duration::from_secs(8);

fn peers(count: u16) -> impl Iterator<Item = Peer> {
    (1..=count).map(Peer)
}

fn report(what: &str, took: Duration) {
    #[expect(
        clippy::print_stdout,
        reason = "a figure for people, shown with --nocapture"
    )]
    {
        println!("netlink: {what}: {:.1} ms", took.as_secs_f64() * 1e3);
    }
}

/// The steps for `count` peers, kind by kind.
fn by_kind(count: u16, ops: fn(Peer) -> [KernelOp; 3]) -> [Vec<KernelOp>; 3] {
    std::array::from_fn(|kind| peers(count).map(|peer| ops(peer)[kind].clone()).collect())
}

#[test]
fn five_thousand_peers_are_set_and_observed_quickly() -> Result<()> {
    inside(UPLINK, async |_, netlink| {
        create(&netlink).await?;
        let start = Instant::now();
        for (ops, what) in by_kind(5000, Peer::set)
            .iter()
            .zip(["neighbours", "FDB", "routes"])
        {
            let start = Instant::now();
            apply(&netlink, ops).await;
            report(&format!("of them, 5,000 {what}"), start.elapsed());
        }
        let applied = start.elapsed();
        report("5,000 peers, 15,000 requests, applied in", applied);

        let start = Instant::now();
        let observed = observe(&netlink).await?.unwrap();
        let read = start.elapsed();
        report("5,000 peers observed in", read);
        assert_eq!(
            (
                observed.routes.len(),
                observed.neighbors.len(),
                observed.fdb.len()
            ),
            (5000, 5000, 5000)
        );

        let start = Instant::now();
        for ops in by_kind(5000, Peer::remove) {
            apply(&netlink, &ops).await;
        }
        let removed = start.elapsed();
        report("5,000 peers removed in", removed);
        let observed = observe(&netlink).await?.unwrap();
        assert!(observed.routes.is_empty() && observed.fdb.is_empty());
        assert!(observed.neighbors.is_empty());
        for took in [applied, read, removed] {
            assert!(took < LIMIT, "{took:?}");
        }
        Ok(())
    })
}

/// Adds a route by `device` to the subnet of each of 50,000 peers. They have no gateway: with
/// one for each, the kernel alone would take a minute.
fn fill_with_routes(namespace: &Namespace, device: &str) -> Result<()> {
    let mut batch = String::new();
    for peer in (1000..51_000).map(Peer) {
        writeln!(batch, "route add {} dev {device}", peer.subnet())?;
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), batch)?;
    namespace.run(&[
        OsStr::new("ip"),
        OsStr::new("-batch"),
        file.path().as_os_str(),
    ])?;
    Ok(())
}

#[test]
fn fifty_thousand_of_each_are_observed_quickly() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        create(&netlink).await?;
        let [neighbors, fdb, _] = by_kind(50_000, Peer::set);
        let start = Instant::now();
        apply(&netlink, &neighbors).await;
        apply(&netlink, &fdb).await;
        report(
            "50,000 neighbours and FDB entries applied in",
            start.elapsed(),
        );
        fill_with_routes(namespace, OVERLAY_LINK)?;

        let start = Instant::now();
        let observed = observe(&netlink).await?.unwrap();
        let read = start.elapsed();
        report(
            "50,000 routes, neighbours and FDB entries observed in",
            read,
        );
        assert_eq!(
            (
                observed.routes.len(),
                observed.neighbors.len(),
                observed.fdb.len()
            ),
            (50_000, 50_000, 50_000)
        );
        assert!(read < 4 * LIMIT, "{read:?}");
        Ok(())
    })
}

#[test]
fn fifty_thousand_foreign_routes_do_not_slow_us_down() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        create(&netlink).await?;
        let ops: Vec<KernelOp> = peers(100).flat_map(Peer::set).collect();
        apply(&netlink, &ops).await;

        let alone = best_of_five(&netlink).await?;
        fill_with_routes(namespace, "eth0")?;
        let beside = best_of_five(&netlink).await?;
        report("100 peers observed in", alone);
        report("100 peers observed beside 50,000 foreign routes in", beside);
        // Reading all of them takes over 100 ms in a debug build.
        assert!(
            beside < 3 * alone + Duration::from_millis(30),
            "the kernel does not filter by oif"
        );
        Ok(())
    })
}

/// The quickest of five observations of 100 peers: a busy machine only makes them slower.
async fn best_of_five(netlink: &Netlink) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let observed = observe(netlink).await?.unwrap();
        best = best.min(start.elapsed());
        assert_eq!(observed.routes.len(), 100);
    }
    Ok(best)
}
