//! Throughput over Twill and over the plain kernel device, side by side.
//!
//! Rounds alternate, because only what was measured within one run may be compared: the
//! absolute figures move with whatever else the machine does.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use twill_testbed::cluster::Cluster;
use twill_testbed::pod::Pod;
use twill_testbed::stock::Pair;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::traffic::throughput;
use twill_testbed::wait::check_interrupt;

use crate::counted;
use crate::findings::{Comparison, Findings};
use crate::voice::Voice;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const GIGA: f64 = 1e9;

pub(crate) fn beside_the_kernel(
    voice: &Voice,
    cluster: &Cluster,
    findings: &mut Findings,
) -> Result<()> {
    voice.heading("One TCP stream, pod to pod, over Twill and over the plain kernel device");
    let [first, second, ..] = cluster.members.as_slice() else {
        bail!("two nodes are needed");
    };
    let twill = [first, second].map(|member| member.pods.first());
    let [Some(from), Some(to)] = twill else {
        bail!("a pod on each of two nodes is needed");
    };
    let stock = Pair::new(UnderlayOptions::default())?;
    voice.built("two more nodes set up by hand as flannel does it, without any BPF program");

    let before = counted::count(first)?;
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        check_interrupt()?;
        let sides = [[from, to], [&stock.pods[0], &stock.pods[1]]];
        // Who goes first changes, so that neither always finds the machine warm.
        for side in [round % 2, (round + 1) % 2] {
            rates[side].push(measure(sides[side]).context("measure throughput")?);
        }
        let [twill, kernel] = rates.each_ref().map(|rates| rates[round] / GIGA);
        voice.built(format_args!(
            "round {}: Twill {twill:.2} Gbit/s, kernel {kernel:.2} Gbit/s",
            round + 1
        ));
    }
    let after = counted::count(first)?;
    let [twill, kernel] = rates;
    let ratios: Vec<f64> = twill.iter().zip(&kernel).map(|(t, k)| t / k).collect();
    let comparison = Comparison {
        twill_median: median(&twill),
        kernel_median: median(&kernel),
        ratio_median: median(&ratios),
        twill,
        kernel,
        by_bpf: after.by_bpf - before.by_bpf,
        by_kernel: after.by_kernel - before.by_kernel,
    };
    tell(voice, &comparison, &ratios);
    if comparison.by_bpf == 0 {
        bail!("BPF encapsulated nothing of what was measured as Twill");
    }
    findings.throughput = Some(comparison);
    Ok(())
}

fn tell(voice: &Voice, comparison: &Comparison, ratios: &[f64]) {
    let Comparison {
        twill_median,
        kernel_median,
        ratio_median,
        by_bpf,
        by_kernel,
        ..
    } = comparison;
    let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = ratios.iter().copied().fold(0.0, f64::max);
    voice.proved(format_args!(
        "medians: Twill {:.2} Gbit/s, kernel {:.2} Gbit/s; Twill carried {ratio_median:.2} times \
         as much (rounds: {lowest:.2} to {highest:.2})",
        twill_median / GIGA,
        kernel_median / GIGA,
    ));
    voice.built(format_args!(
        "of the packets that node a sent over Twill meanwhile, BPF encapsulated {by_bpf} and the \
         kernel {by_kernel}"
    ));
    voice.note(
        "A few seconds on one machine, where sender, receiver and wire share the processors:",
    );
    voice.note("the ratio says more than the rates, and its spread says how much.");
}

fn measure([from, to]: [&Pod; 2]) -> Result<f64> {
    let measured = throughput(from.namespace(), to.namespace(), to.address(), ROUND)?;
    Ok(measured.bits_per_second)
}

/// The median of an odd number of values; of none it is not a number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }
}
