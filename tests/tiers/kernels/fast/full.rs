//! Conntrack's table full: its limit is the machine's, and a guest has its own.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use twill_testbed::wait::wait_for;

use crate::lab::{Lab, Options, PATIENCE, PERMIT_TIME, run};
use crate::talk::Talk;

const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// How long an answer is waited for where none may come.
const SHORT: Duration = Duration::from_secs(2);
/// Ports of flows, by which conntrack's entries are found.
const UDP_PORT: u16 = 5801;
const TCP_PORT: u16 = 5802;

/// Whom a full table may let go on, and whether it does, on stock nodes as on others.
const CARRIED: [(&str, bool); 4] = [
    ("flows that have an entry", true),
    ("a flow that has none and gets none", false),
    ("a flow whose entry is lost, after a permit time", false),
    ("a new flow when there is room again", true),
];

/// Holds a lab against [`CARRIED`], while conntrack's table is full.
pub(super) fn judge(lab: &Lab) -> Result<()> {
    for ((whom, expected), found) in CARRIED.into_iter().zip(carried(lab)?) {
        ensure!(found == expected, "{whom}: carried {found}");
    }
    Ok(())
}

#[test]
fn on_stock_nodes_a_full_conntrack_table_stops_what_it_stops_here() -> Result<()> {
    let options = Options {
        stock: true,
        ..Options::default()
    };
    run(options, |lab| judge(lab))
}

/// Rules that need conntrack, without which a node would not track at all.
const TRACKED: &str = "nft add table inet firewall
    nft add chain inet firewall forward { type filter hook forward priority 0 ; }
    nft add rule inet firewall forward ct state invalid drop";

/// For each line of [`CARRIED`], what was found.
fn carried(lab: &Lab) -> Result<[bool; 4]> {
    for member in &lab.cluster.members {
        member.node.namespace().run_lines(TRACKED)?;
    }
    let mut udp = Talk::udp_from(lab.client(), UDP_PORT, lab.echo())?;
    let mut tcp = Talk::tcp_from(lab.client(), TCP_PORT, lab.echo())?;
    wait_for("conntrack is sure of both flows", PATIENCE, || {
        ask_both(&mut udp, &mut tcp, 20)?;
        let sure = sure_of(lab, "udp", UDP_PORT)? && sure_of(lab, "tcp", TCP_PORT)?;
        Ok(sure.then_some(()))
    })?;
    if lab.has_programs() {
        lab.until_fast(&mut udp)?;
        lab.until_fast(&mut tcp)?;
    }
    let full = Full::new()?;

    // Several probes of each flow find the table full.
    let before = lab.fast_counts_if_any()?;
    let (begin, mut asked) = (Instant::now(), 0);
    let mut known = Ok(());
    while known.is_ok() && begin.elapsed() < 3 * PERMIT_TIME {
        known = ask_both(&mut udp, &mut tcp, 10);
        asked += 20;
    }
    if let Err(error) = &known {
        #[expect(clippy::print_stdout, reason = "why a flow is not carried, for people")]
        {
            println!("after {:?}: {error:#}", begin.elapsed());
        }
    }
    for (before, after) in before.iter().zip(lab.fast_counts_if_any()?) {
        let fast = after - before;
        ensure!(fast > asked / 2, "{fast} of {asked} questions were fast");
    }

    let before = lab.fast_counts_if_any()?;
    let mut stranger = Talk::udp(lab.client(), lab.echo())?;
    stranger.set_patience(SHORT)?;
    let new = (0..3).any(|_| stranger.ask().is_ok());
    let after = lab.fast_counts_if_any()?;
    ensure!(before == after, "a flow without an entry was fast");

    for member in &lab.cluster.members {
        let line = format!("conntrack -D -p udp --orig-port-src {UDP_PORT}");
        member.node.namespace().run_lines(&line)?;
    }
    udp.set_patience(SHORT)?;
    let end = Instant::now() + 2 * PERMIT_TIME;
    let mut forgotten = true;
    while forgotten && Instant::now() < end {
        forgotten = udp.ask().is_ok();
    }

    full.end()?;
    let later = Talk::udp(lab.client(), lab.echo())?.ask().is_ok();
    Ok([known.is_ok(), new, forgotten, later])
}

fn ask_both(udp: &mut Talk, tcp: &mut Talk, times: u32) -> Result<()> {
    (0..times).try_for_each(|_| {
        udp.ask().context("UDP")?;
        tcp.ask().context("TCP")
    })
}

/// Whether both nodes have an entry of the flow that a full table keeps.
fn sure_of(lab: &Lab, protocol: &str, port: u16) -> Result<bool> {
    let port = port.to_string();
    let words = ["conntrack", "-L", "-p", protocol, "--orig-port-src", &port];
    for member in &lab.cluster.members {
        if !member.node.namespace().run(&words)?.contains("[ASSURED]") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// No room for new entries in any namespace, until dropped.
struct Full {
    limit: String,
}

impl Full {
    fn new() -> Result<Self> {
        let limit = fs::read_to_string(LIMIT).with_context(|| format!("read {LIMIT}"))?;
        // Every namespace that tracks has more entries than that.
        fs::write(LIMIT, "1").with_context(|| format!("write {LIMIT}"))?;
        Ok(Self { limit })
    }
}

impl Full {
    fn end(self) -> Result<()> {
        fs::write(LIMIT, &self.limit).with_context(|| format!("write {LIMIT}"))
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // Where it fails after a test that failed, that one says enough; see [`Full::end`].
        drop(fs::write(LIMIT, &self.limit));
    }
}
