//! What the programs cost, as tables for a terminal.

use super::report::{BranchCost, Comparison, ProgramsReport};
use crate::report::columns::{figures, plain};
use crate::stats::Interval;

/// Below this a part of the cost says nothing.
const SMALL_NS: f64 = 20.0;

/// A stored run beside this one: exact for instructions, and for times as far as both ran on
/// the same machine.
pub fn beside_stored(now: &ProgramsReport, stored: &ProgramsReport) -> String {
    let mut text = String::from("Beside the stored run\n");
    let same = now.machine.cpu == stored.machine.cpu && now.machine.kernel == stored.machine.kernel;
    if !same {
        let made = format!(
            "It was made on {} with Linux {}: only its instructions compare.\n",
            stored.machine.cpu, stored.machine.kernel
        );
        text += &made;
    }
    let mut table = plain(["program", "instructions stored", "now", "change"]);
    for verified in &now.verifier {
        let before = stored
            .verifier
            .iter()
            .find(|other| other.program == verified.program);
        let processed = verified.processed;
        let (stored, change) = before.map_or_else(
            || ("none".to_owned(), String::new()),
            |before| {
                let change = (f64::from(processed) / f64::from(before.processed) - 1.0) * 100.0;
                (before.processed.to_string(), format!("{change:+.1} %"))
            },
        );
        table.add_row([
            verified.program.clone(),
            stored,
            processed.to_string(),
            change,
        ]);
    }
    text += &figures(table);
    if !same {
        return text;
    }
    let mut table = plain(["branch", "ns stored", "ns now", "change"]);
    for cost in &now.branches {
        let before = stored
            .branches
            .iter()
            .find(|other| (other.branch, other.scene) == (cost.branch, cost.scene));
        if let Some((before, now)) = before.and_then(|before| before.cost_ns.zip(cost.cost_ns)) {
            let overlap = now.low <= before.high && before.low <= now.high;
            let change = now.median - before.median;
            table.add_row([
                format!("{} ({})", cost.branch, cost.scene),
                format!("{:.0}", before.median),
                format!("{:.0}", now.median),
                if overlap {
                    "no difference".to_owned()
                } else {
                    format!("{change:+.0} ns")
                },
            ]);
        }
    }
    text += "\n\nTimes of two runs differ by what else the machine did; --against OBJECT measures both in turns.\n";
    text += &figures(table);
    text
}

/// All of it, for a terminal.
pub fn text(report: &ProgramsReport) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "Linux {} on {} CPUs {}\n{} rounds of {} runs, each with a packet of its own\n\n",
        machine.kernel, machine.cpus, machine.cpu, report.rounds, report.runs
    );
    text += "Nanoseconds a packet [95 % interval], more than a program that does nothing\n";
    let mut table = plain(["branch", "object", "leases", "permits", "ns", "interval"]);
    for cost in &report.branches {
        let BranchCost {
            object,
            scene,
            branch,
            cost_ns,
            ..
        } = cost;
        let (ns, interval) = cost_ns.map_or_else(
            || ("none".to_owned(), String::new()),
            |cost| {
                let Interval { median, low, high } = cost;
                (format!("{median:.0}"), format!("[{low:.0}, {high:.0}]"))
            },
        );
        table.add_row([
            branch.to_string(),
            object.clone(),
            scene.leases.to_string(),
            scene.permits.to_string(),
            ns,
            interval,
        ]);
    }
    text += &figures(table);
    for (title, comparisons) in [
        ("What more entries in the maps cost", &report.growth),
        ("What the change did", &report.change),
    ] {
        if !comparisons.is_empty() {
            let table = format!("\n\n{title}\n{}", compared(comparisons));
            text += &table;
        }
    }
    text += "\n\nThe verifier\n";
    let mut table = plain([
        "program",
        "object",
        "instructions processed",
        "machine code, bytes",
    ]);
    for verified in &report.verifier {
        table.add_row([
            verified.program.clone(),
            verified.object.clone(),
            verified.processed.to_string(),
            verified.jited_bytes.to_string(),
        ]);
    }
    text += &figures(table);
    for cost in &report.branches {
        if let Some(problem) = &cost.problem {
            let line = format!(
                "\nnot measured: {} ({}): {problem}",
                cost.branch, cost.scene
            );
            text += &line;
        }
    }
    text
}

fn compared(comparisons: &[Comparison]) -> String {
    let mut table = plain(["branch", "", "beside", "ns there", "more", "told"]);
    for comparison in comparisons {
        let Comparison {
            branch,
            what,
            with,
            before_ns,
            more_ns,
            more_share,
        } = comparison;
        let Interval { median, low, high } = more_ns;
        let told = if *low <= 0.0 && *high >= 0.0 {
            "no difference".to_owned()
        } else if *before_ns < SMALL_NS {
            format!("{median:+.0} ns")
        } else {
            format!("{:+.1} %", more_share * 100.0)
        };
        table.add_row([
            branch.to_string(),
            what.clone(),
            with.clone(),
            format!("{before_ns:.0}"),
            format!("{median:+.1} [{low:+.1}, {high:+.1}]"),
            told,
        ]);
    }
    figures(table)
}
