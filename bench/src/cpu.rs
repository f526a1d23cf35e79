//! CPU time by the kernel's own accounting: of the whole machine, and of one process.
//!
//! `/proc/stat` counts interrupts and softirqs, where most of a packet's way is, as well as
//! what processes do; see proc(5). Its grain is a clock tick, so short windows are coarse.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Time that the CPUs spent until now, all of them together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CpuTime {
    /// At work for us or somebody else.
    pub busy: Duration,
    /// Doing nothing.
    pub idle: Duration,
    /// Wanted, but given to another virtual machine.
    pub stolen: Duration,
}

impl CpuTime {
    /// The machine's.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        parse(&text, tick()?)
    }

    /// What was spent since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            idle: self.idle.saturating_sub(earlier.idle),
            stolen: self.stolen.saturating_sub(earlier.stolen),
        }
    }

    /// Share of the time that `part` is, 0 to 1.
    fn share(self, part: Duration) -> f64 {
        let all = self.busy + self.idle + self.stolen;
        if all.is_zero() {
            return 0.0;
        }
        part.as_secs_f64() / all.as_secs_f64()
    }

    /// Share of the time at work, 0 to 1.
    pub fn busy_share(self) -> f64 {
        self.share(self.busy)
    }

    /// Share of the time that other virtual machines had, 0 to 1.
    pub fn stolen_share(self) -> f64 {
        self.share(self.stolen)
    }
}

/// What a process has used until now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ProcessUse {
    /// CPU time in user and kernel mode.
    pub cpu: Duration,
    /// Memory in use, bytes.
    pub memory_bytes: u64,
    /// The most memory that it ever used, bytes.
    pub memory_peak_bytes: u64,
}

impl ProcessUse {
    /// Of a running process.
    pub fn of(pid: Pid) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        Ok(Self {
            cpu: process_time(&stat, tick()?).with_context(|| format!("in {stat:?}"))?,
            memory_bytes: kilobytes(&status, "VmRSS:").context("no VmRSS")? * 1024,
            memory_peak_bytes: kilobytes(&status, "VmHWM:").context("no VmHWM")? * 1024,
        })
    }
}

/// The unit of these files.
fn tick() -> Result<Duration> {
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(Duration::from_secs(1) / u32::try_from(ticks)?)
}

fn parse(text: &str, tick: Duration) -> Result<CpuTime> {
    let line = text.lines().next().unwrap_or_default();
    let numbers = line.strip_prefix("cpu ").context("no line `cpu`")?;
    let ticks: Vec<u64> = numbers
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("in {line:?}"))?;
    let &[user, nice, system, idle, io_wait, irq, softirq, stolen, ..] = ticks.as_slice() else {
        anyhow::bail!("fewer numbers than eight in {line:?}");
    };
    // Guest time is part of `user` already.
    Ok(CpuTime {
        busy: ticks_of(tick, user + nice + system + irq + softirq),
        idle: ticks_of(tick, idle + io_wait),
        stolen: ticks_of(tick, stolen),
    })
}

/// Fields 14 and 15 of `/proc/pid/stat`; the name in front may hold blanks and brackets.
fn process_time(stat: &str, tick: Duration) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(ticks_of(tick, user.checked_add(system)?))
}

/// A number of ticks, which on a large machine soon passes 32 bits.
fn ticks_of(tick: Duration, count: u64) -> Duration {
    let nanoseconds = u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanoseconds.saturating_mul(count))
}

fn kilobytes(status: &str, key: &str) -> Option<u64> {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(key))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    #[test]
    fn softirqs_count_as_work_and_guests_not_twice() {
        let time = parse("cpu  1 2 3 40 5 6 7 8 1 0\ncpu0 0\n", TICK).unwrap();
        assert_eq!(time.busy, TICK * 19);
        assert_eq!(time.idle, TICK * 45);
        assert_eq!(time.stolen, TICK * 8);
        assert!((time.busy_share() - 19.0 / 72.0).abs() < 1e-9);
    }

    #[test]
    fn rubbish_is_an_error() {
        for text in ["", "cpu 1 2", "cpu  1 2 3 4 5 6 x 8"] {
            assert!(parse(text, TICK).is_err(), "{text}");
        }
    }

    #[test]
    fn a_process_with_an_odd_name_is_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 5";
        assert_eq!(process_time(stat, TICK), Some(TICK * 42));
        assert_eq!(
            kilobytes("Name:\tx\nVmRSS:\t  123 kB\n", "VmRSS:"),
            Some(123)
        );
    }

    #[test]
    fn this_process_uses_memory() {
        let used = ProcessUse::of(Pid::this()).unwrap();
        assert!(used.memory_bytes > 0 && used.memory_peak_bytes >= used.memory_bytes);
        assert!(CpuTime::now().unwrap().busy > Duration::ZERO);
    }
}
