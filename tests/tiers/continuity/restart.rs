//! The daemon ends and starts, in order or not, with and without its store.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::wait::{pass, wait_for};
use twill_tests::required;

use crate::scene::{BY_FILTERS, DIRECT, PATIENCE, PROGRAMS, Scene, wait_attached};
use crate::upgrade::up_and_down;

/// How often the daemon is killed.
const KILLS: u32 = 100;
const KILLS_BY_FILTERS: u32 = 30;
/// The daemon lives between nothing and this long, in milliseconds: most of its start.
const SHORT_LIFE: u64 = 400;
/// Every so manyth life may be this long: a start on a busy machine takes less.
const LONG_LIFE: u64 = 2000;
const LONG_LIVES: u32 = 5;

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
            for member in &mut cluster.members {
                goes_on_without_the_store(&mut member.agent)?;
            }
            pass(Duration::from_secs(5))?;
            for member in &mut cluster.members {
                goes_on_without_the_store(&mut member.agent)?;
            }
            Ok(())
        },
    )
}

/// Waits until the daemon that was started last looks after the node by what the earlier one left.
fn goes_on_without_the_store(agent: &mut Agent) -> Result<()> {
    let pid = i64::from(agent.daemon()?.pid()?.as_raw());
    wait_for("the daemon is there without its store", PATIENCE, || {
        let ended = agent.daemon()?.ended()?;
        ensure!(ended.is_none(), "it ended with {ended:?}");
        let status = agent.status()?["status"].take();
        let why = status["reason"].as_str();
        let goes_on = why.is_some_and(|why| why.contains("earlier start go on"));
        ensure!(status["pid"] == pid && goes_on, "{status}");
        Ok(Some(()))
    })
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

#[test]
fn nobody_notices_a_stop_a_start_and_another_abi_version_in_mode_direct() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(DIRECT)?;
    stop_and_start(&mut scene, ", in mode direct")?;
    up_and_down(&mut scene, "in mode direct")
}

fn stop_and_start(scene: &mut Scene, how: &str) -> Result<()> {
    scene.unnoticed(&format!("SIGTERM and start{how}"), |cluster| {
        for member in &mut cluster.members {
            let before = programs(&member.agent)?;
            ensure!(member.agent.stop()?.success(), "the daemon failed");
            pass(Duration::from_millis(500))?;
            member.agent.start_again()?;
            took_over(&mut member.agent, &before)?;
        }
        Ok(())
    })
}

/// Identities of the programs that carry the node's packets.
fn programs(agent: &Agent) -> Result<BTreeSet<u64>> {
    let status = agent.status()?;
    let attached = status["status"]["attached"].as_array();
    let attached = attached.context("nothing attached")?.iter();
    Ok(attached
        .filter_map(|one| one["program_id"].as_u64())
        .collect())
}

/// Waits until the daemon that was started last is ready, with programs of its own in the place of
/// the ones before.
fn took_over(agent: &mut Agent, before: &BTreeSet<u64>) -> Result<()> {
    agent.wait_ready()?;
    wait_attached(agent)?;
    let now = programs(agent)?;
    let told = format!("programs were {before:?}, and are {now:?}");
    ensure!(now.len() == PROGRAMS && now.is_disjoint(before), "{told}");
    Ok(())
}

fn crash(scene: &mut Scene, times: u32, how: &str) -> Result<()> {
    let mut random = Random::new()?;
    let seed = random.0;
    let event = format!("kill -9 and start, {times} times{how}");
    let mut ready = 0;
    let unnoticed = scene.unnoticed(&event, |cluster| {
        let members = cluster.members.iter();
        let before = members.map(|member| programs(&member.agent));
        let before: Vec<_> = before.collect::<Result<_>>()?;
        for crash in 0..times {
            // One node after the other, and sometimes both are without.
            let side = usize::try_from(crash % 2)?;
            let agent = &mut cluster.members[side].agent;
            let ended = agent.daemon()?.ended()?;
            ensure!(ended.is_none(), "the daemon ended by itself: {ended:?}");
            agent.kill()?;
            pass(Duration::from_millis(random.below(50)))?;
            agent.start_again()?;
            let is_long = crash % LONG_LIVES == 0;
            let longest = if is_long { LONG_LIFE } else { SHORT_LIFE };
            pass(Duration::from_millis(random.below(longest)))?;
            if crash == times / 2 {
                // However busy the machine is, one gets as far as that.
                agent.wait_ready()?;
            }
            if is_long {
                let pid = i64::from(agent.daemon()?.pid()?.as_raw());
                let status = agent.status()?["status"].take();
                ready += u32::from(status["pid"] == pid && status["ready"] == true);
            }
        }
        for (member, before) in cluster.members.iter_mut().zip(&before) {
            took_over(&mut member.agent, before)?;
        }
        Ok(())
    });
    let told = format!("{event}: seed {seed}, {ready} daemons lived until they were ready");
    writeln!(std::io::stderr(), "{told}")?;
    unnoticed.context(told)
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
