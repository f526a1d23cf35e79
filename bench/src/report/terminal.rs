//! The report as tables for a terminal.

use super::columns;
use super::ratio::Ratio;
use super::{Report, Summary};
use crate::case::{Case, Subject, Unit};
use crate::stats::FEWEST_ROUNDS;

/// All of it, as text.
pub fn text(report: &Report) -> String {
    let mut parts = vec![head(report)];
    parts.push(figures(report));
    parts.push(section(
        "Ratios: median of the rounds' ratios [95 % interval]",
        &ratios(&report.ratios),
    ));
    parts.push(section(
        "Time from request to answer, ratios: less is better",
        &ratios(&report.latency_ratios),
    ));
    parts.push(section(
        "CPU time for the same work, ratios: less is better",
        &ratios(&report.cpu_ratios),
    ));
    parts.push(agents(report));
    parts.push(rounds(report));
    parts.push(problems(report));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

/// What a run was made on and how, in two lines.
pub fn head(report: &Report) -> String {
    let machine = &report.machine;
    let memory = machine.memory_bytes >> 30;
    let kind = if machine.is_virtual { ", virtual" } else { "" };
    let settings = &report.settings;
    format!(
        "Linux {} on {} CPUs {} ({memory} GiB{kind})\n{} rounds of {:.1} s after {:.1} s of warm-up, {} Services; {:.0} s in all",
        machine.kernel,
        machine.cpus,
        machine.cpu,
        report.rounds.len(),
        settings.window_s,
        settings.warm_up_s,
        settings.services,
        report.took_s,
    )
}

fn figures(report: &Report) -> String {
    let mut table = columns::plain([
        "case",
        "wire",
        "target",
        "subject",
        "median",
        "quartiles",
        "p50/p99/p99.9 µs",
        "CPU s",
        "carried",
        "rounds",
    ]);
    for result in &report.results {
        let Summary {
            case,
            shape,
            target,
            subject,
            unit,
            value,
            latency_us,
            cpu_s,
            went,
            rounds,
        } = result;
        table.add_row([
            case.to_string(),
            shape.to_string(),
            if subject.is_overlay() {
                target.to_string()
            } else {
                "node".to_owned()
            },
            subject.to_string(),
            figure(value.median, *unit),
            format!(
                "{} … {}",
                figure(value.lower, *unit),
                figure(value.upper, *unit)
            ),
            latency_us.map_or_else(String::new, |times| {
                format!("{:.0}/{:.0}/{:.0}", times.p50, times.p99, times.p999)
            }),
            cpu_s.map_or_else(String::new, |cpu| format!("{cpu:.2}")),
            went.map_or_else(String::new, |went| went.to_string()),
            rounds.to_string(),
        ]);
    }
    columns::right(&mut table, [4, 5, 6, 7, 8, 9]);
    let text = section(
        "Figures; CPU s: for a Gbit, or for 10,000 of the rest",
        &columns::text(&table),
    );
    if report.results.is_empty() {
        return String::new();
    }
    text
}

/// A row for each case, target and reference; a column for each subject.
fn ratios(ratios: &[Ratio]) -> String {
    if ratios.is_empty() {
        return String::new();
    }
    let mut subjects: Vec<Subject> = ratios.iter().map(|ratio| ratio.mode).collect();
    subjects.sort_unstable();
    subjects.dedup();
    let head = ["case", "wire", "target", "against"].map(str::to_owned);
    let mut table = columns::plain(
        head.into_iter()
            .chain(subjects.iter().map(Subject::to_string)),
    );
    let mut seen = Vec::new();
    for ratio in ratios {
        let row = (&ratio.case, ratio.shape, ratio.target, ratio.against);
        if seen.contains(&row) {
            continue;
        }
        seen.push(row);
        let cells = subjects.iter().map(|&subject| {
            let mut of_row = ratios
                .iter()
                .filter(|other| (&other.case, other.shape, other.target, other.against) == row);
            let found = of_row.find(|other| other.mode == subject);
            found.map_or_else(String::new, told)
        });
        let head = [
            ratio.case.clone(),
            ratio.shape.to_string(),
            ratio.target.to_string(),
            ratio.against.to_string(),
        ];
        table.add_row(head.into_iter().chain(cells));
    }
    columns::text(&table)
}

/// A ratio in words. One whose interval includes 1 is none.
pub fn told(ratio: &Ratio) -> String {
    let Ratio {
        median, low, high, ..
    } = ratio;
    let few = if (ratio.rounds as usize) < FEWEST_ROUNDS {
        format!(" of {} rounds only", ratio.rounds)
    } else {
        String::new()
    };
    if ratio.no_difference {
        format!("no difference [{low:.2}, {high:.2}]{few}")
    } else {
        format!("{median:.2} [{low:.2}, {high:.2}]{few}")
    }
}

fn agents(report: &Report) -> String {
    let mut table = columns::plain([
        "subject",
        "wire",
        "CPU s to start",
        "CPU s in the run",
        "memory",
        "peak",
    ]);
    for told in &report.subjects {
        for agent in &told.agents {
            let mega = |bytes: u64| format!("{:.1} MB", crate::stats::float(bytes) / 1e6);
            table.add_row([
                told.subject.to_string(),
                told.shape.to_string(),
                format!("{:.2}", agent.cpu_start_s),
                format!("{:.2}", agent.cpu_run_s),
                mega(agent.memory_bytes),
                mega(agent.memory_peak_bytes),
            ]);
        }
    }
    columns::right(&mut table, [2, 3, 4, 5]);
    if table.is_empty() {
        return String::new();
    }
    section("Agents, one of each node", &columns::text(&table))
}

fn rounds(report: &Report) -> String {
    let noisy = report.rounds.iter().filter(|round| round.is_noisy());
    let told: Vec<_> = noisy
        .map(|round| {
            let percent = round.busy_before * 100.0;
            format!("{} {} ({percent:.0} %)", round.shape, round.number)
        })
        .collect();
    if told.is_empty() {
        return String::new();
    }
    format!(
        "Noisy rounds, kept: something else used the CPUs just before them: {}",
        told.join(", ")
    )
}

fn problems(report: &Report) -> String {
    let told: Vec<_> = report
        .problems
        .iter()
        .map(|problem| {
            let case = problem.case.map_or("all cases", Case::name);
            let target = problem
                .target
                .map_or_else(String::new, |target| format!(" to the {target}"));
            format!(
                "  {} {case}{target} ({}), {} rounds: {}",
                problem.subject, problem.shape, problem.rounds, problem.reason
            )
        })
        .collect();
    if told.is_empty() {
        return String::new();
    }
    format!(
        "Did not run as meant, and gives no figure:\n{}",
        told.join("\n")
    )
}

/// A figure with its unit, as people read it.
pub fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Bits => format!("{:.2} Gbit/s", value / 1e9),
        Unit::Transactions => format!("{value:.0} trans/s"),
        Unit::Connections => format!("{value:.0} conn/s"),
        Unit::Packets => format!("{:.1} kpackets/s", value / 1e3),
    }
}

fn section(title: &str, body: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    format!("{title}\n{body}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Shape, Target};

    fn ratio(median: f64, low: f64, high: f64) -> Ratio {
        Ratio {
            case: "tcp_rr".to_owned(),
            shape: Shape::Gso,
            target: Target::Pod,
            mode: Subject::Permit,
            against: Subject::Kernel,
            median,
            low,
            high,
            no_difference: low <= 1.0 && high >= 1.0,
            rounds: 6,
        }
    }

    #[test]
    fn what_may_be_noise_is_no_difference() {
        assert_eq!(told(&ratio(1.43, 1.40, 1.46)), "1.43 [1.40, 1.46]");
        assert_eq!(told(&ratio(1.03, 0.98, 1.07)), "no difference [0.98, 1.07]");
    }

    #[test]
    fn subjects_are_columns() {
        let mut host = ratio(0.7, 0.6, 0.8);
        host.mode = Subject::Kernel;
        host.against = Subject::Host;
        let text = ratios(&[host, ratio(1.43, 1.40, 1.46)]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("kernel") && lines[0].contains("permit"));
        assert!(
            lines[2].contains("1.43") && !lines[2].contains("0.70"),
            "{text}"
        );
    }
}
