//! A good flow beside a million forged packets.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::traffic::iperf;
use twill_tests::required;

use crate::arena::{A, Arena, B};
use crate::watch::Watch;

/// Forged packets in all.
const FORGED: u32 = 1_000_000;
/// Rounds, each with a share of them and one without any.
const ROUNDS: u32 = 4;
/// How long a round's good flow lasts.
const ROUND: Duration = Duration::from_secs(3);
/// What the good flow sends, bits per second: what a flow gets that does not fight with the
/// flood's own sender for the two processors of a small machine.
const RATE: &str = "100M";

fn good(arena: &Arena) -> Result<f64> {
    let run = iperf::paced(arena.pod(B), arena.pod(A), arena.address(A), ROUND, RATE)?;
    Ok(run.bits_per_second)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[test]
fn a_good_flow_does_not_suffer_from_a_million_forged_packets() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let arena = Arena::alone(2, &["--guard=enforce", "--guard-attach=native"])?;
    let frame = [arena.stranger("flood")];
    let watch = Watch::start(arena.pod(A))?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(good(&arena)?);
        beside.push(std::thread::scope(|scope| -> Result<f64> {
            let flood = scope.spawn(|| -> Result<()> {
                for _ in 0..FORGED / ROUNDS {
                    arena.send(&frame)?;
                }
                Ok(())
            });
            let rate = good(&arena)?;
            flood.join().expect("the flood does not panic")?;
            Ok(rate)
        })?);
    }
    arena.settle(&watch)?;
    ensure!(
        watch.count("flood") == 0,
        "{} reached the pod",
        watch.count("flood")
    );
    let told = arena.victim().agent.ctl(&["strangers"])?;
    let stranger = &told["strangers"][0];
    ensure!(stranger["packets"] == stranger["dropped"], "{told}");
    let dropped = stranger["dropped"].as_u64().unwrap_or(0);
    // What a full queue in front of the guard throws away, it does not see.
    ensure!(
        dropped > u64::from(FORGED) / 2,
        "only {dropped} of {FORGED} met the guard"
    );
    let (alone, beside) = (median(alone), median(beside));
    let told = format!("good flow: {alone:.0} bit/s alone, {beside:.0} bit/s beside the flood");
    writeln!(std::io::stderr(), "{told}")?;
    ensure!(beside > 0.9 * alone, "{told}");
    Ok(())
}
