//! Virtio-net as uplink, with its offloads and without: every byte arrives, whoever carries.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use twill_testbed::traffic::{ping, tcp_echo, udp_echo};
use twill_testbed::world::UPLINK;

use crate::figures::{self, median_ratio};
use crate::lab::ROUND;
use crate::talk::Talk;

use super::half::{Half, run};

/// Offloads, as `ethtool -K` calls them, and a line of `ethtool -k` for each that the device
/// really has.
const OFFLOADS: [&str; 5] = ["tx", "rx", "tso", "gso", "gro"];
const SHOWN: [&str; 2] = ["tx-checksumming", "tcp-segmentation-offload"];
/// Rounds of one setting.
const ROUNDS: usize = 3;
/// Bytes of a stream, each way.
const STREAM: usize = 2_000_000;
/// Rounds within which flows must have become fast: some minutes.
const MANY: u32 = 300;
/// Questions of a round.
const QUESTIONS: u32 = 100;

/// How fast a round was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    /// Bytes a second, there and back.
    stream: f64,
    /// Questions and answers a second.
    answers: f64,
}

#[test]
fn every_byte_arrives_with_offloads_and_without() -> Result<()> {
    let test = "every_byte_arrives_with_offloads_and_without";
    run(test, &[], |half| {
        for setting in ["on", "off"] {
            set_offloads(half, setting)?;
            half.side.exchange("offloads are set")?;
            carried(half, setting).with_context(|| format!("offloads {setting}"))?;
        }
        Ok(())
    })
}

fn set_offloads(half: &Half, setting: &str) -> Result<()> {
    let mut words = vec!["ethtool", "-K", UPLINK];
    words.extend(OFFLOADS.iter().flat_map(|offload| [*offload, setting]));
    half.node.namespace().run(&words)?;
    let shown = half.node.namespace().run(&["ethtool", "-k", UPLINK])?;
    for name in SHOWN {
        // Else this would be two rounds of the same.
        ensure!(shown.contains(&format!("{name}: {setting}")), "{shown}");
    }
    Ok(())
}

/// Rounds by the kernel's vxlan and by permits in turn; nothing is lost or changed in any.
fn carried(half: &mut Half, setting: &str) -> Result<()> {
    let mut speeds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (mode, speeds) in ["kernel", "auto"].into_iter().zip(&mut speeds) {
            half.agent.ctl_text(&["mode", mode])?;
            half.side.exchange(mode)?;
            if mode == "auto" {
                until_fast(half)?;
            }
            let before = half.both_fast_counts()?;
            if half.side.is_first() {
                let speed = round(half).with_context(|| format!("in the mode {mode}"))?;
                speeds.push(speed);
            }
            let after = half.both_fast_counts()?;
            let fast: Vec<u64> = before.iter().zip(&after).map(|(b, a)| a - b).collect();
            let as_it_should_be = |count: &u64| match mode {
                "kernel" => *count == 0,
                // Questions and answers alone are as many; streams come in large packets.
                _ => *count > u64::from(QUESTIONS) / 2,
            };
            ensure!(
                fast.iter().all(as_it_should_be),
                "in the mode {mode} {fast:?} packets were fast"
            );
        }
    }
    if half.side.is_first() {
        tell(setting, &speeds)?;
    }
    Ok(())
}

/// Until questions and answers go past both nodes' stacks. The guests go through it in step and
/// come to the same end, so it counts rounds and not time.
pub(super) fn until_fast(half: &mut Half) -> Result<()> {
    let mut talk = Talk::udp(half.pod(), half.echo())?;
    for _ in 0..MANY {
        let before = half.both_fast_counts()?;
        if half.side.is_first() {
            (0..ROUND).try_for_each(|_| talk.ask())?;
        }
        let after = half.both_fast_counts()?;
        let mut pairs = before.iter().zip(&after);
        if pairs.all(|(b, a)| a - b > ROUND / 2) {
            return Ok(());
        }
    }
    bail!("requests and answers are not fast after {MANY} rounds of {ROUND}")
}

/// Ping, datagrams and a stream, contents compared.
pub(super) fn round(half: &Half) -> Result<Speed> {
    for size in [0, 1_400] {
        ping(half.pod(), half.far(), size)?;
    }
    // The longest is a datagram of several fragments.
    for length in [1, 1_000, 5_000] {
        udp_echo(half.pod(), half.far(), length)?;
    }
    let begin = Instant::now();
    tcp_echo(half.pod(), half.far(), STREAM)?;
    let bytes = 2.0 * f64::from(u32::try_from(STREAM)?);
    let stream = bytes / begin.elapsed().as_secs_f64();
    let mut talk = Talk::udp(half.pod(), half.echo())?;
    let begin = Instant::now();
    (0..QUESTIONS).try_for_each(|_| talk.ask())?;
    let answers = f64::from(QUESTIONS) / begin.elapsed().as_secs_f64();
    Ok(Speed { stream, answers })
}

fn tell(setting: &str, speeds: &[Vec<Speed>; 2]) -> Result<()> {
    let [kernel, permits] = speeds;
    let ratio = |of: fn(&Speed) -> f64| {
        let series = |speeds: &[Speed]| speeds.iter().map(of).collect::<Vec<_>>();
        median_ratio(&series(permits), &series(kernel))
    };
    figures::add(
        &format!("two guests, offloads {setting}, permits to kernel vxlan"),
        &format!(
            "stream {:.2}, questions and answers {:.2}",
            ratio(|speed| speed.stream),
            ratio(|speed| speed.answers)
        ),
    )
}
