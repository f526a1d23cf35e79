//! What the guard is worth, as tables for a terminal.

use super::{Beside, Drops, Flow, GuardReport};
use crate::report::columns::{figures, plain};
use crate::stats::{Interval, Spread, median};

/// All of it.
pub fn text(report: &GuardReport) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "Linux {} on {} CPUs {}\n{} rounds of {} frames\n\n",
        machine.kernel, machine.cpus, machine.cpu, report.rounds, report.frames
    );
    for (title, table) in [
        ("A stranger's packets, dropped", drops(&report.drops)),
        (
            "The guard beside rules that drop the same",
            beside(&report.beside),
        ),
        (
            "A flow as fast as it goes, beside forged packets",
            flows(&report.flows),
        ),
    ] {
        let part = format!("{title}\n{table}\n\n");
        text += &part;
    }
    for problem in problems(report) {
        let line = format!("not as meant: {problem}\n");
        text += &line;
    }
    text.trim_end().to_owned()
}

fn drops(all: &[Drops]) -> String {
    let mut table = plain(["by", "packets/s", "quartiles", "ns more than a bare drop"]);
    for drops in all {
        let (median, quartiles) = drops.per_second.map_or_else(
            || ("none".to_owned(), String::new()),
            |spread| {
                let Spread {
                    median,
                    lower,
                    upper,
                    ..
                } = spread;
                let quartiles = format!("{:.0} to {:.0} k", lower / 1e3, upper / 1e3);
                (format!("{:.0} k", median / 1e3), quartiles)
            },
        );
        let more = drops.more_ns.map_or_else(String::new, |more| {
            let Interval { median, low, high } = more;
            format!("{median:.0} [{low:.0}, {high:.0}]")
        });
        table.add_row([drops.way.to_string(), median, quartiles, more]);
    }
    figures(table)
}

fn beside(all: &[Beside]) -> String {
    let mut table = plain(["guard", "rule", "times as many packets"]);
    for Beside {
        way,
        against,
        ratio,
    } in all
    {
        table.add_row([way.to_string(), against.to_string(), told(ratio)]);
    }
    figures(table)
}

fn flows(all: &[Flow]) -> String {
    let mut table = plain(["guard", "alone", "beside", "kept", "forged packets/s"]);
    for flow in all {
        let gigabits = |spread: Option<Spread>| {
            spread.map_or_else(
                || "none".to_owned(),
                |spread| format!("{:.2} Gbit/s", spread.median / 1e9),
            )
        };
        table.add_row([
            flow.stance.to_string(),
            gigabits(flow.alone_bps),
            gigabits(flow.beside_bps),
            flow.kept.as_ref().map_or_else(String::new, told),
            median(&flow.paces).map_or_else(String::new, |pace| format!("{:.0} k", pace / 1e3)),
        ]);
    }
    figures(table)
}

fn told(ratio: &Interval) -> String {
    let Interval { median, low, high } = ratio;
    format!("{median:.2} [{low:.2}, {high:.2}]")
}

fn problems(report: &GuardReport) -> Vec<String> {
    let drops = report
        .drops
        .iter()
        .map(|drops| (drops.way.to_string(), &drops.problem));
    let flows = report
        .flows
        .iter()
        .map(|flow| (flow.stance.to_string(), &flow.problem));
    let told = drops.chain(flows);
    told.filter_map(|(name, problem)| Some(format!("{name}: {}", problem.as_ref()?)))
        .collect()
}
