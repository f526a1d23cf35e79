//! The table kernel × feature: shown by the run, kept in `docs/kernels.md`.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::report::Report;
use crate::places;

/// What the generated part of the document begins and ends with.
const BEGIN: &str = "<!-- `cargo xtask test kernels` writes from here -->\n";
const END: &str = "<!-- to here -->\n";
/// Set, it lets a run write what it found instead of comparing it.
pub(super) const BLESS: &str = "TWILL_BLESS";

/// A row: what, and one cell for each kernel.
type Row = (String, Vec<String>);

/// The table as Markdown, columns aligned.
pub(super) fn table(runs: &[(&str, &Report)]) -> String {
    let mut rows: Vec<Row> = Vec::new();
    for (column, (_, report)) in runs.iter().enumerate() {
        for (name, cell) in cells(report) {
            let place = rows.iter().position(|(known, _)| *known == name);
            let place = place.unwrap_or_else(|| {
                rows.push((name, vec![String::new(); runs.len()]));
                rows.len() - 1
            });
            cell.clone_into(&mut rows[place].1[column]);
        }
    }
    let head = runs.iter().map(|&(series, _)| series.to_owned());
    let rule = runs.iter().map(|_| "---".to_owned());
    let mut lines: Vec<Row> = vec![
        (String::new(), head.collect()),
        ("---".to_owned(), rule.collect()),
    ];
    lines.append(&mut rows);
    lines.iter().map(markdown).collect()
}

fn markdown((name, cells): &Row) -> String {
    format!("| {name} | {} |\n", cells.join(" | "))
}

fn cells(report: &Report) -> Vec<(String, &'static str)> {
    let programs = report.programs.iter().map(|(name, answer)| {
        let cell = if answer.is_ok() { "loads" } else { "rejected" };
        (format!("program `{name}`"), cell)
    });
    let features = report.features.iter().map(|(name, missing)| {
        let cell = if missing.is_none() { "yes" } else { "no" };
        (name.clone(), cell)
    });
    programs.chain(features).collect()
}

/// Compares the table with the one that is kept; with [`BLESS`] set, keeps it.
pub(super) fn keep(table: &str) -> Result<()> {
    let file = document();
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let Some((before, kept, after)) = parts(&text) else {
        bail!(
            "{} has no place for the table, between {BEGIN:?} and {END:?}",
            file.display()
        );
    };
    if kept == table {
        return Ok(());
    }
    if env::var_os(BLESS).is_none() {
        bail!(
            "the table in {} says something else; {BLESS}=1 writes this one",
            file.display()
        );
    }
    fs::write(&file, format!("{before}{table}{after}"))
        .with_context(|| format!("write {}", file.display()))
}

fn document() -> PathBuf {
    places::root().join("docs/kernels.md")
}

/// The text up to the table, the table, the text behind it.
fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let begin = text.find(BEGIN)? + BEGIN.len();
    let end = begin + text.get(begin..)?.find(END)?;
    Some((text.get(..begin)?, text.get(begin..end)?, text.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_a_place_for_the_table() {
        let text = include_str!("../../../docs/kernels.md");
        let (before, table, after) = parts(text).unwrap();
        assert!(before.starts_with("# Kernels\n"));
        assert!(
            table.starts_with("|  | 5.10 | 6.1 | 6.12 | 7.2 |\n| --- |"),
            "{table}"
        );
        assert!(after.starts_with(END));
        assert_eq!(parts("no table"), None);
        assert_eq!(parts(END), None);
    }
}
