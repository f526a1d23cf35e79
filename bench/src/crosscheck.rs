//! The load generator beside the tools that people trust: iperf3 for streams, and sockperf for
//! transactions where it is installed. In turns, over the nodes' own network.

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use twill_testbed::command::command;
use twill_testbed::netns::Namespace;
use twill_testbed::wait::{check_interrupt, wait_for};

use crate::case::{Case, Shape, Subject, Target};
use crate::load::{Ends, Place, Side, Timing, cpus_of, measure};
use crate::progress::Progress;
use crate::stats::{Interval, median};
use crate::subject::Lane;
use crate::topology::Setup;

/// Length of each measurement, both the tool's and ours.
const WINDOW: Duration = Duration::from_secs(2);
/// The tools' servers listen from here on, each on a port of its own: sockperf does not take
/// one on which connections linger.
static PORT: AtomicU16 = AtomicU16::new(5201);
/// How long a tool's server may take until it listens.
const START: Duration = Duration::from_secs(5);

/// A tool that measures what a case of ours does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tool {
    Iperf3,
    Sockperf,
}

/// What both found, round by round.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The case.
    pub case: Case,
    /// The tool's name.
    pub tool: &'static str,
    /// Median of our figures.
    pub ours: f64,
    /// Median of the tool's.
    pub theirs: f64,
    /// Ours as a part of the tool's, of each round.
    pub ratio: Interval,
}

/// Runs both in turns. A tool that is not installed is left out, and said to be.
pub fn run(rounds: u32) -> Result<Vec<Checked>> {
    let setup = Setup {
        shape: Shape::Gso,
        services: 0,
        leases: 0,
        permits: 0,
        max_permits: None,
    };
    let lane = Lane::build(Subject::Host, setup, None)?;
    let ends = lane.ends(Target::Pod);
    let (Place::Inside(client), Place::Inside(server)) = (ends.client, ends.server) else {
        bail!("the nodes are no namespaces");
    };
    let pairs = [
        (Case::TcpStream, Tool::Iperf3),
        (Case::TcpRr, Tool::Sockperf),
        (Case::UdpRr, Tool::Sockperf),
    ];
    let mut progress = Progress::new(rounds * 3);
    let mut checked = Vec::new();
    for (case, tool) in pairs {
        if !tool.is_installed(client) {
            progress.note(&format!("{case}: {} is not installed", tool.name()));
            progress.skip(rounds);
            continue;
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            check_interrupt()?;
            progress.step(&format!("{case} beside {}, round {round}", tool.name()));
            let timing = Timing {
                warm_up: Duration::from_millis(200),
                window: WINDOW,
            };
            // Who is first changes.
            if round % 2 == 0 {
                ours.push(measure(case.traffic(), ends, timing)?.per_second);
                theirs.push(tool.measure(case, client, server, ends)?);
            } else {
                theirs.push(tool.measure(case, client, server, ends)?);
                ours.push(measure(case.traffic(), ends, timing)?.per_second);
            }
        }
        let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(o, t)| o / t).collect();
        checked.push(Checked {
            case,
            tool: tool.name(),
            ours: median(&ours).context("no rounds")?,
            theirs: median(&theirs).context("no rounds")?,
            ratio: Interval::of(&ratios).context("no rounds")?,
        });
    }
    Ok(checked)
}

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Self::Iperf3 => "iperf3",
            Self::Sockperf => "sockperf",
        }
    }

    fn is_installed(self, namespace: &Namespace) -> bool {
        namespace.run(&[self.name(), "--version"]).is_ok()
    }

    fn measure(
        self,
        case: Case,
        client: &Namespace,
        server: &Namespace,
        ends: Ends<'_>,
    ) -> Result<f64> {
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let (serving, asking) = self.words(case, &ends.to.to_string(), port);
        let mut command = command(&placed(Side::Server, serving)?)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut serving = Serving(server.spawn(&mut command)?);
        let filter = format!("sport = :{port}");
        let kind = if case == Case::UdpRr {
            "-Hlun"
        } else {
            "-Hltn"
        };
        wait_for("the tool's server listens", START, || {
            if let Some(status) = serving.0.try_wait()? {
                bail!("the server of {} ended with {status}", self.name());
            }
            let listening = server.run(&["ss", kind, &filter])?;
            Ok((!listening.is_empty()).then_some(()))
        })?;
        let text = client.run(&placed(Side::Client, asking)?)?;
        drop(serving);
        let found = match self {
            Self::Iperf3 => bits_per_second(&text),
            Self::Sockperf => transactions(&text),
        };
        found.with_context(|| format!("{} printed {text:?}", self.name()))
    }

    /// The command lines of its server and its client.
    fn words(self, case: Case, to: &str, port: u16) -> (Vec<String>, Vec<String>) {
        let seconds = WINDOW.as_secs();
        let (serving, asking) = match self {
            Self::Iperf3 => (
                format!("iperf3 --server --one-off --port {port}"),
                format!("iperf3 --client {to} --port {port} --time {seconds} --json"),
            ),
            Self::Sockperf => {
                let tcp = if case == Case::TcpRr { "--tcp" } else { "" };
                // Its smallest message.
                (
                    format!("sockperf server --ip {to} --port {port} {tcp}"),
                    format!(
                        "sockperf ping-pong --ip {to} --port {port} --time {seconds} --msg-size 14 {tcp}"
                    ),
                )
            }
        };
        let split = |line: String| line.split_whitespace().map(str::to_owned).collect();
        (split(serving), split(asking))
    }
}

/// On the same CPUs as our own threads of that side: two ends on one CPU, as the scheduler
/// likes them, are several times as fast as two that have to wake each other.
fn placed(side: Side, words: Vec<String>) -> Result<Vec<String>> {
    let cpus = cpus_of(side)?;
    let list: Vec<_> = cpus.iter().map(ToString::to_string).collect();
    let mut placed = vec!["taskset".to_owned(), "-c".to_owned(), list.join(",")];
    placed.extend(words);
    Ok(placed)
}

/// What arrived, in iperf3's JSON.
fn bits_per_second(text: &str) -> Option<f64> {
    let report: Value = serde_json::from_str(text).ok()?;
    report["end"]["sum_received"]["bits_per_second"].as_f64()
}

/// From the line `[Valid Duration] RunTime=1.950 sec; SentMessages=49; ReceivedMessages=48`.
fn transactions(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.contains("[Valid Duration]"))?;
    let value = |key: &str| -> Option<f64> {
        let (_, rest) = line.split_once(key)?;
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        rest.get(..end.unwrap_or(rest.len()))?.parse().ok()
    };
    Some(value("ReceivedMessages=")? / value("RunTime=")?)
}

/// A server for one measurement, ended on drop.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // An error says that it has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What was found, for a terminal.
pub fn text(checked: &[Checked]) -> String {
    let lines = checked.iter().map(|check| {
        let Checked {
            case,
            tool,
            ours,
            theirs,
            ratio,
        } = check;
        let unit = case.unit();
        format!(
            "{case}: ours {}, {tool} {}, ratio {:.2} [{:.2}, {:.2}]",
            crate::report::terminal::figure(*ours, unit),
            crate::report::terminal::figure(*theirs, unit),
            ratio.median,
            ratio.low,
            ratio.high
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockperfs_messages_are_counted_by_its_own_time() {
        let text = "sockperf: [Total Run] RunTime=2.0 sec; SentMessages=9; ReceivedMessages=9\n\
                    sockperf: [Valid Duration] RunTime=1.500 sec; SentMessages=3000; ReceivedMessages=3000\n";
        assert!((transactions(text).unwrap() - 2000.0).abs() < 1e-9);
        assert_eq!(transactions("nothing"), None);
        assert_eq!(bits_per_second("{}"), None);
    }
}
