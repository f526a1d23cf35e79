//! A flow that takes what it can get, beside a flood of forged packets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};
use twill_testbed::cluster::Cluster;
use twill_testbed::netns::Prefix;
use twill_testbed::packet::{Ethernet, Ipv4, Udp, Vxlan};
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::traffic::iperf;
use twill_testbed::wait::{check_interrupt, wait_until};
use twill_testbed::world::{NODE_A, NODE_B, PORT, STRANGER, UPLINK, UPLINK_MAC_A, VNI, uplink_mac};

use super::flood::Flood;
use crate::progress::Progress;
use crate::stats::{Interval, SplitMix, Spread};

/// How long each flow lasts.
const FLOW: Duration = Duration::from_secs(2);
/// Forged packets in a second, where the machine makes as many: a million in eight flows.
const PACE: u32 = 125_000;
/// How often some of them are sent.
const TICK: Duration = Duration::from_millis(4);
/// The most that are sent at once.
const BURST: u32 = 2_000;
/// The stranger's label.
const MALLORY: &str = "mallory";
/// How long an agent may take.
const SECONDS: Duration = Duration::from_secs(40);

/// What the victim's guard does, and where.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stance {
    /// Nothing.
    Off,
    /// Counts, at TC.
    Count,
    /// Drops, at TC.
    EnforceTc,
    /// Drops, at XDP in the driver: on a veth that takes whole GSO packets away.
    EnforceNative,
}

impl Stance {
    const ALL: [Self; 4] = [Self::Off, Self::Count, Self::EnforceTc, Self::EnforceNative];

    fn flags(self) -> [&'static str; 2] {
        match self {
            Self::Off => ["--guard=off", "--guard-attach=tc"],
            Self::Count => ["--guard=count", "--guard-attach=tc"],
            Self::EnforceTc => ["--guard=enforce", "--guard-attach=tc"],
            Self::EnforceNative => ["--guard=enforce", "--guard-attach=native"],
        }
    }

    /// What `twillctl status` must say of it: where, and whether it drops.
    fn place(self) -> (&'static str, bool) {
        match self {
            Self::Off => ("nowhere", false),
            Self::Count => ("tc", false),
            Self::EnforceTc => ("tc", true),
            Self::EnforceNative => ("xdp-native", true),
        }
    }
}

impl std::fmt::Display for Stance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Off => "off",
            Self::Count => "count, TC",
            Self::EnforceTc => "enforce, TC",
            Self::EnforceNative => "enforce, XDP native",
        })
    }
}

/// What the flow carried.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Flow {
    /// What the guard does.
    pub stance: Stance,
    /// Bits in a second without a flood, round by round.
    pub alone: Vec<f64>,
    /// With it.
    pub beside: Vec<f64>,
    /// Forged packets in all.
    pub forged: u64,
    /// Forged packets in a second, round by round.
    pub paces: Vec<f64>,
    /// Without a flood, together.
    pub alone_bps: Option<Spread>,
    /// With it.
    pub beside_bps: Option<Spread>,
    /// With it, as a part of that without, within each round.
    pub kept: Option<Interval>,
    /// What did not go as meant.
    pub problem: Option<String>,
}

/// Two nodes with a pod each, and a host on the underlay that is no node.
struct Lane {
    cluster: Cluster,
    mallory: Node,
    flood: Flood,
    flow: Flow,
}

/// Measures in turns: every stance once in each round, in an order of the round's own.
pub(super) fn run(rounds: u32) -> Result<Vec<Flow>> {
    let mut lanes = Vec::new();
    for stance in Stance::ALL {
        check_interrupt()?;
        lanes.push(Lane::build(stance).with_context(|| format!("the nodes of {stance}"))?);
    }
    let mut random = SplitMix::new(2);
    let mut progress = Progress::new(rounds);
    for round in 0..rounds {
        progress.step(&format!("flows: round {} of {rounds}", round + 1));
        random.shuffle(&mut lanes);
        for lane in &mut lanes {
            check_interrupt()?;
            match lane.once() {
                Ok((alone, beside)) => {
                    lane.flow.alone.push(alone);
                    lane.flow.beside.push(beside);
                }
                Err(error) => lane.flow.problem = Some(format!("{error:#}")),
            }
        }
    }
    drop(progress);
    let mut flows: Vec<_> = lanes.into_iter().map(|lane| conclude(lane.flow)).collect();
    flows.sort_by_key(|flow| flow.stance as u8);
    Ok(flows)
}

impl Lane {
    fn build(stance: Stance) -> Result<Self> {
        let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
        let flags = stance.flags();
        cluster.add_node_with("a", NODE_A, &flags)?.add_pod("1")?;
        cluster
            .add_node_with("b", NODE_B, &["--guard=off"])?
            .add_pod("1")?;
        cluster.wait_mesh()?;
        let [victim, peer] = cluster.members.as_slice() else {
            anyhow::bail!("two nodes");
        };
        let guard = || Ok::<_, anyhow::Error>(victim.agent.status()?["status"]["guard"].take());
        wait_until("the guard is where it belongs", SECONDS, || {
            let (by, drops) = stance.place();
            guard().is_ok_and(|guard| guard["by"] == by && guard["drops"] == drops)
        })?;
        let status = victim.agent.status()?;
        let vtep = status["status"]["mac"].as_str().context("no MAC address")?;
        let ([to], [from]) = (victim.pods.as_slice(), peer.pods.as_slice()) else {
            anyhow::bail!("a pod on each node");
        };
        let inner = Ipv4::new(from.address(), to.address()).udp(&Udp::new(4_000, 9), &[0; 64]);
        let inner = Ethernet::ipv4([2, 0, 0, 0, 6, 6], mac(vtep)?).over(&inner);
        let outer = Ipv4 {
            fragment: 0,
            ..Ipv4::new(STRANGER, NODE_A)
        };
        let udp = Udp::without_checksum(55_555, PORT);
        let outer = outer.udp(&udp, &Vxlan::new(VNI).over(&inner));
        let frame = Ethernet::ipv4(uplink_mac(STRANGER), UPLINK_MAC_A).over(&outer);

        let mallory = cluster.underlay.join(MALLORY, STRANGER)?;
        // With GRO a veth has NAPI: what redirected frames need.
        let port = ["ethtool", "-K", MALLORY, "gro", "on"];
        cluster.underlay.switch().run(&port)?;
        let index = mallory.namespace().enter(|| if_nametoindex(UPLINK))??;
        Ok(Self {
            flood: Flood::through(index, frame)?,
            cluster,
            mallory,
            flow: Flow::none(stance),
        })
    }

    /// Bits in a second without a flood and with it.
    fn once(&mut self) -> Result<(f64, f64)> {
        let alone = carried(&self.cluster)?;
        let done = AtomicBool::new(false);
        let (cluster, mallory, flood) = (&self.cluster, &self.mallory, &mut self.flood);
        let (beside, sent) = std::thread::scope(|scope| -> Result<_> {
            let flooding = scope.spawn(|| mallory.namespace().enter(|| pace(flood, &done)));
            let beside = carried(cluster);
            done.store(true, Ordering::Relaxed);
            let sent = match flooding.join() {
                Ok(sent) => sent??,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            Ok((beside?, sent))
        })?;
        self.flow.forged += u64::from(sent.0);
        self.flow
            .paces
            .push(f64::from(sent.0) / sent.1.as_secs_f64());
        ensure!(sent.0 > 0, "no forged packet could be sent");
        Ok((alone, beside))
    }
}

/// What a flow as fast as it goes carries from the peer's pod to the victim's.
fn carried(cluster: &Cluster) -> Result<f64> {
    let [victim, peer] = cluster.members.as_slice() else {
        anyhow::bail!("two nodes");
    };
    let ([to], [from]) = (victim.pods.as_slice(), peer.pods.as_slice()) else {
        anyhow::bail!("a pod on each node");
    };
    let run = iperf::throughput(from.namespace(), to.namespace(), to.address(), FLOW)?;
    Ok(run.bits_per_second)
}

/// Sends forged packets at their pace until it is done; how many, in what time.
fn pace(flood: &mut Flood, done: &AtomicBool) -> Result<(u32, Duration)> {
    let began = Instant::now();
    let mut sent = 0;
    // What could not be sent in its time is not sent later.
    let mut due = 0.0;
    let mut last = began;
    while !done.load(Ordering::Relaxed) {
        let now = Instant::now();
        due += (now - last).as_secs_f64() * f64::from(PACE);
        due = due.min(f64::from(BURST));
        last = now;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some packets, not negative"
        )]
        let burst = due as u32;
        if burst > 0 {
            flood.send(burst)?;
            sent += burst;
            due -= f64::from(burst);
        }
        std::thread::sleep(TICK);
    }
    Ok((sent, began.elapsed()))
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<_> = bytes.collect::<Result<_, _>>()?;
    let found = bytes.try_into().ok();
    found.with_context(|| format!("{text} is no MAC address"))
}

impl Flow {
    fn none(stance: Stance) -> Self {
        Self {
            stance,
            alone: Vec::new(),
            beside: Vec::new(),
            forged: 0,
            paces: Vec::new(),
            alone_bps: None,
            beside_bps: None,
            kept: None,
            problem: None,
        }
    }
}

fn conclude(mut flow: Flow) -> Flow {
    let rounds = flow.alone.iter().zip(&flow.beside);
    let kept: Vec<_> = rounds.map(|(alone, beside)| beside / alone).collect();
    flow.alone_bps = Spread::of(&flow.alone);
    flow.beside_bps = Spread::of(&flow.beside);
    flow.kept = Interval::of(&kept);
    flow
}
