//! The report as one HTML file: charts inline, no scripts, nothing to load.

use anyhow::Result;

use super::chart::{Bar, Strip, bars, strips};
use super::ratio::Ratio;
use super::terminal::{figure, head, told};
use super::{Problem, Report, Sample};
use crate::case::{Case, Shape, Subject};

const STYLE: &str = "body{font:15px/1.45 sans-serif;color:#222;background:#fff;max-width:900px;\
margin:2em auto;padding:0 1em}h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}\
pre{background:#f6f6f6;padding:.7em;white-space:pre-wrap}table{border-collapse:collapse;font-size:13px}\
td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #e5e5e5}\
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}\
.bad{background:#fff3e6;border-left:4px solid #d55e00;padding:.5em 1em}.note{color:#666}";

/// All of it, as a document.
pub fn text(report: &Report) -> Result<String> {
    let mut body = String::from("<h1>Overlays side by side</h1>");
    body += &made_of(report);
    body += &problems(&report.problems);
    for against in Subject::REFERENCES {
        body += &ratios(report, *against)?;
    }
    for &shape in Shape::ALL {
        for &case in Case::ALL {
            body += &samples(report, case, shape)?;
        }
    }
    body += &more_ratios("Time from request to answer", &report.latency_ratios);
    body += &more_ratios("CPU time for the same work", &report.cpu_ratios);
    body += &agents(report);
    body += &every_sample(report);
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Overlays side by side</title><style>{STYLE}</style>\
         </head><body>{body}</body></html>\n"
    ))
}

fn made_of(report: &Report) -> String {
    let versions = report.machine.versions.iter();
    let versions: Vec<_> = versions
        .map(|version| format!("{}: {}", version.program, version.version))
        .collect();
    let noisy = report
        .rounds
        .iter()
        .filter(|round| round.is_noisy())
        .count();
    format!(
        "<pre>{}\n{}\n\n{}</pre><p class=\"note\">Every subject has two nodes of its own, and one \
         pair at a time is measured. Dots are samples, a little lower with each round; hollow ones \
         are of rounds before which something else used the CPUs ({noisy} of {}). Upright lines are \
         medians. Only ratios within one run may be compared with anything.</p>",
        escape(&head(report)),
        escape(&report.settings.command),
        escape(&versions.join("\n")),
        report.rounds.len(),
    )
}

fn problems(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let items = problems.iter().map(|problem| {
        let case = problem.case.map_or("all cases", Case::name);
        let target = problem.target.map_or("", crate::case::Target::name);
        format!(
            "<li>{} {case} {target} ({}), {} rounds: {}</li>",
            problem.subject,
            problem.shape,
            problem.rounds,
            escape(&problem.reason)
        )
    });
    format!(
        "<div class=\"bad\"><b>Did not run as meant, and gives no figure</b><ul>{}</ul></div>",
        items.collect::<String>()
    )
}

fn ratios(report: &Report, against: Subject) -> Result<String> {
    let chosen = report
        .ratios
        .iter()
        .filter(|ratio| ratio.against == against);
    let rows: Vec<Bar> = chosen
        .map(|ratio| Bar {
            name: place(ratio),
            subject: ratio.mode,
            interval: [ratio.low, ratio.median, ratio.high],
            told: told(ratio),
        })
        .collect();
    if rows.is_empty() {
        return Ok(String::new());
    }
    Ok(format!(
        "<h2>Beside {against}: times as much</h2>{}<p class=\"note\">Medians of the rounds' ratios \
         with their 95 % intervals (bootstrap). What reaches over the line at 1 is no \
         difference.</p>",
        bars(&rows)?
    ))
}

fn place(ratio: &Ratio) -> String {
    let Ratio {
        case,
        shape,
        target,
        mode,
        ..
    } = ratio;
    format!("{case} {shape} {target}: {mode}")
}

fn samples(report: &Report, case: Case, shape: Shape) -> Result<String> {
    let noisy = |sample: &Sample| {
        let mut rounds = report.rounds.iter();
        rounds.any(|round| {
            (round.shape, round.number) == (sample.shape, sample.round) && round.is_noisy()
        })
    };
    let results = report.results.iter();
    let rows: Vec<Strip> = results
        .filter(|result| (result.case, result.shape) == (case, shape))
        .map(|result| {
            let of_row = report.samples.iter().filter(|sample| {
                (sample.case, sample.shape) == (case, shape)
                    && (sample.target, sample.subject) == (result.target, result.subject)
            });
            let name = if result.subject.is_overlay() {
                format!("{}, {}", result.subject, result.target)
            } else {
                result.subject.to_string()
            };
            Strip {
                name,
                subject: result.subject,
                dots: of_row
                    .filter_map(|sample| Some((sample.value?, noisy(sample))))
                    .collect(),
            }
        })
        .collect();
    if rows.is_empty() {
        return Ok(String::new());
    }
    let chart = strips(&rows, |value| figure(value, case.unit()))?;
    Ok(format!("<h2>{case}, {shape}</h2>{chart}"))
}

fn more_ratios(title: &str, ratios: &[Ratio]) -> String {
    let rows = ratios.iter().map(|ratio| {
        let cells = [place(ratio), ratio.against.to_string(), told(ratio)];
        row("td", &cells)
    });
    table(
        title,
        "less is better",
        &["", "against", "ratio"],
        &rows.collect::<String>(),
    )
}

fn agents(report: &Report) -> String {
    let rows = report.subjects.iter().flat_map(|told| {
        told.agents.iter().map(|agent| {
            let mega = |bytes: u64| format!("{:.1} MB", crate::stats::float(bytes) / 1e6);
            row(
                "td",
                &[
                    format!("{} {}", told.subject, told.shape),
                    format!("{:.2}", agent.cpu_start_s),
                    format!("{:.2}", agent.cpu_run_s),
                    mega(agent.memory_bytes),
                    mega(agent.memory_peak_bytes),
                ],
            )
        })
    });
    table(
        "Agents",
        "one of each node",
        &["", "CPU s to start", "CPU s in the run", "memory", "peak"],
        &rows.collect::<String>(),
    )
}

fn every_sample(report: &Report) -> String {
    let rows = report.samples.iter().map(|sample| {
        let value = match (&sample.value, &sample.problem) {
            (Some(value), _) => figure(*value, sample.unit),
            (None, Some(problem)) => problem.clone(),
            (None, None) => String::new(),
        };
        let latency = sample.latency_us.map_or_else(String::new, |times| {
            format!("{:.0}/{:.0}/{:.0}", times.p50, times.p99, times.p999)
        });
        let number = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.3}"));
        row(
            "td",
            &[
                format!("{} {} {}", sample.case, sample.shape, sample.target),
                sample.subject.to_string(),
                sample.round.to_string(),
                value,
                latency,
                number(sample.cpu_s),
                sample
                    .went
                    .map_or_else(String::new, |went| went.to_string()),
                format!("{}/{}", sample.lost, sample.sent),
                sample.retransmits.to_string(),
            ],
        )
    });
    let head = [
        "",
        "subject",
        "round",
        "figure",
        "p50/p99/p99.9 µs",
        "CPU s",
        "carried",
        "lost/sent",
        "sent again",
    ];
    let table = table(
        "Every sample",
        "in the order they were measured",
        &head,
        &rows.collect::<String>(),
    );
    format!("<details><summary>Every sample as numbers</summary>{table}</details>")
}

fn table(title: &str, note: &str, head: &[&str], rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head: Vec<_> = head.iter().map(|&cell| cell.to_owned()).collect();
    format!(
        "<h2>{title}</h2><p class=\"note\">{note}</p><table>{}{rows}</table>",
        row("th", &head)
    )
}

fn row(kind: &str, cells: &[String]) -> String {
    let cells = cells
        .iter()
        .map(|cell| format!("<{kind}>{}</{kind}>", escape(cell)));
    format!("<tr>{}</tr>", cells.collect::<String>())
}

/// Text as HTML has it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_say_is_no_markup() {
        assert_eq!(
            escape("<script>a & b</script>"),
            "&lt;script&gt;a &amp; b&lt;/script&gt;"
        );
    }

    #[test]
    fn a_table_of_nothing_is_nothing() {
        assert_eq!(table("Title", "note", &["a"], ""), "");
    }
}
