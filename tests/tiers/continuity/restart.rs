//! The daemon ends and starts, in order or not, with and without its store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use twill_testbed::wait::pass;
use twill_tests::required;

use crate::scene::{BY_FILTERS, Scene};

/// How often the daemon is killed.
const KILLS: u32 = 100;
const KILLS_BY_FILTERS: u32 = 30;
/// The daemon lives between nothing and this long: a start takes less.
const LONGEST_LIFE: u64 = 500;

#[test]
fn nobody_notices_a_stop_in_order_and_a_start() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(&[])?;
    stop_and_start(&mut scene, "")?;
    scene.unnoticed(
        "store unreachable, both agents killed and started",
        |cluster| {
            cluster.lease_server.kill()?;
            for member in &mut cluster.members {
                member.agent.kill()?;
                member.agent.start_again()?;
            }
            pass(Duration::from_secs(5))
        },
    )
}

#[test]
fn nobody_notices_a_hundred_crashes_at_random_moments() -> Result<()> {
    if !required() {
        return Ok(());
    }
    crash(&mut Scene::new(&[])?, KILLS, "")
}

#[test]
fn nobody_notices_stops_and_crashes_without_tcx() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(BY_FILTERS)?;
    stop_and_start(&mut scene, ", by tc filters")?;
    crash(&mut scene, KILLS_BY_FILTERS, ", by tc filters")
}

fn stop_and_start(scene: &mut Scene, how: &str) -> Result<()> {
    scene.unnoticed(&format!("SIGTERM and start{how}"), |cluster| {
        for member in &mut cluster.members {
            ensure!(member.agent.stop()?.success(), "the daemon failed");
            pass(Duration::from_millis(500))?;
            member.agent.start_again()?;
            member.agent.wait_ready()?;
        }
        Ok(())
    })
}

fn crash(scene: &mut Scene, times: u32, how: &str) -> Result<()> {
    let mut random = Random::new()?;
    let event = format!("kill -9 and start, {times} times{how}");
    scene.unnoticed(&event, |cluster| {
        for crash in 0..times {
            // One node after the other, and sometimes both are without.
            let side = usize::try_from(crash % 2)?;
            let agent = &mut cluster.members[side].agent;
            agent.kill()?;
            pass(Duration::from_millis(random.below(50)))?;
            agent.start_again()?;
            pass(Duration::from_millis(random.below(LONGEST_LIFE)))?;
        }
        for member in &mut cluster.members {
            member.agent.wait_ready()?;
        }
        Ok(())
    })
}

/// Moments that nobody chose: xorshift64 (Marsaglia, 2003), from the clock.
struct Random(u64);

impl Random {
    fn new() -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Self(now.as_secs().wrapping_mul(1_000_000_007) | 1))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
