//! What growth costs, as tables for a terminal.

use super::medians::medians;
use super::{ConvergeReport, Convergence, GrowthReport, Rate};
use crate::programs;
use crate::report::columns;
use crate::report::terminal::figure;
use crate::stats::{Interval, float};

/// All of it.
pub fn text(report: &GrowthReport) -> String {
    let mut parts = vec![programs::text(&report.programs), rates(&report.rates)];
    parts.push(convergence(&report.convergence));
    parts.push(problems(&report.rates, &report.convergence));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

/// What `--converge` found.
pub fn converge_text(report: &ConvergeReport) -> String {
    let mut parts = vec![convergence(&report.convergence)];
    parts.push(problems(&[], &report.convergence));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn rates(rates: &[Rate]) -> String {
    let mut table = columns::plain([
        "",
        "subject",
        "case",
        "median",
        "CPU",
        "beside the smallest",
    ]);
    for rate in rates {
        let beside = rate.beside_smallest.map_or_else(String::new, |interval| {
            let Interval { median, low, high } = interval;
            if interval.is_no_difference() {
                format!("no difference [{low:.2}, {high:.2}]")
            } else {
                format!("{median:.2} [{low:.2}, {high:.2}]")
            }
        });
        table.add_row([
            format!("{} {}", rate.size, rate.axis),
            rate.subject.to_string(),
            rate.case.to_string(),
            rate.value.map_or_else(
                || "none".to_owned(),
                |value| figure(value.median, rate.unit),
            ),
            rate.cpu_ns
                .map_or_else(String::new, |cpu| format!("{:.0} ns each", cpu.median)),
            beside,
        ]);
    }
    format!("Traffic between nodes\n{}", columns::text(&table))
}

fn convergence(all: &[Convergence]) -> String {
    let head = [
        "agent",
        "leases",
        "runs",
        "start to last route",
        "to last map entry",
        "one more lease",
        "CPU",
        "memory",
    ];
    let mut table = columns::plain(head);
    for (one, runs) in medians(all) {
        let time = |value: Option<f64>| {
            value.map_or_else(
                || "none".to_owned(),
                |value| format!("{:.1} ms", value * 1e3),
            )
        };
        table.add_row([
            one.agent,
            one.leases.to_string(),
            runs.to_string(),
            time(one.start_s),
            time(one.mapped_s),
            time(one.change_s),
            time(one.cpu_s),
            one.memory_peak_bytes.map_or_else(
                || "none".to_owned(),
                |bytes| format!("{:.1} MB", float(bytes) / 1e6),
            ),
        ]);
    }
    format!("Agents, medians\n{}", columns::text(&table))
}

fn problems(rates: &[Rate], convergence: &[Convergence]) -> String {
    let rates = rates.iter().filter_map(|rate| {
        let problem = rate.problem.as_ref()?;
        let Rate {
            size,
            axis,
            subject,
            case,
            ..
        } = rate;
        Some(format!("  {subject} {case} with {size} {axis}: {problem}"))
    });
    let convergence = convergence.iter().filter_map(|one| {
        let problem = one.problem.as_ref()?;
        Some(format!(
            "  {} with {} leases: {problem}",
            one.agent, one.leases
        ))
    });
    let told: Vec<_> = rates.chain(convergence).collect();
    if told.is_empty() {
        return String::new();
    }
    format!("Did not run as meant:\n{}", told.join("\n"))
}
