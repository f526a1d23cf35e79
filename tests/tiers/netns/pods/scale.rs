//! Many pods: figures, and generous limits.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use twill_core::pods;

use super::{Watched, on_a_node, report};

const PODS: usize = 250;
/// For a debug build on a busy machine.
const LIMIT: Duration = Duration::from_millis(500);

fn batch(watched: &Watched<'_>, program: &str, text: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let path = file.path().to_string_lossy().into_owned();
    watched.node.namespace().run(&[program, "-batch", &path])?;
    Ok(())
}

fn each(line: impl Fn(usize) -> String) -> String {
    (0..PODS)
        .map(line)
        .fold(String::new(), |text, line| text + &line + "\n")
}

/// The quickest of five looks: a busy machine only makes them slower.
async fn look(watched: &Watched<'_>, what: &str, expected: &str) -> Result<()> {
    let mut reading = Duration::MAX;
    let mut finding = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let host = watched.netlink.host_links(watched.rules.own_subnet).await?;
        reading = reading.min(start.elapsed());
        let start = Instant::now();
        let found = pods::find(&host, &watched.rules);
        finding = finding.min(start.elapsed());
        assert_eq!(super::told(&found), vec![expected; PODS], "{what}");
    }
    report(&format!("{PODS} pods, {what}, read in"), reading);
    report(&format!("{PODS} pods, {what}, judged in"), finding);
    assert!(
        reading + finding < LIMIT,
        "{what}: {reading:?} + {finding:?}"
    );
    Ok(())
}

fn add_peers(watched: &Watched<'_>, count: u16) -> Result<()> {
    let mut text = String::new();
    for [high, low] in (1..=count).map(u16::to_be_bytes) {
        writeln!(text, "route add 172.{}.{low}.0/24 dev flannel.1", high + 16)?;
    }
    batch(watched, "ip", &text)
}

#[test]
fn two_hundred_and_fifty_pods_are_found_quickly() -> Result<()> {
    on_a_node(async |watched| {
        let pod = watched.empty_pod("1")?;
        let name = pod.name();
        watched.run(
            "ip link add cni0 type bridge
             ip addr add 10.244.1.1/24 dev cni0
             ip link set cni0 up",
        )?;
        add_peers(watched, 2500)?;
        let veth = |i| format!("link add v{i} type veth peer name p{i} netns {name}");
        batch(watched, "ip", &each(veth))?;
        let port = |i| format!("link set v{i} master cni0 up");
        batch(watched, "ip", &each(port))?;
        look(watched, "ports of the bridge", "Bridge").await?;

        let routed = |i| format!("link set v{i} nomaster\nroute add 10.244.1.{i}/32 dev v{i}");
        batch(watched, "ip", &each(routed))?;
        look(watched, "routed, beside 2,500 peers", "Routed").await?;

        let clsact = |i| format!("qdisc add dev v{i} clsact");
        batch(watched, "tc", &each(clsact))?;
        look(watched, "each with clsact", "Routed").await
    })
}
