//! The table of what a tier measured: tests write its lines, and it is printed after them.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::tier::Target;
use crate::places;

/// Tells the tests of a tier the file: one line for each row, columns parted by tabs.
pub(super) const VARIABLE: &str = "TWILL_TABLE";

const HEAD: [&str; 5] = [
    "event",
    "probes",
    "lost probes",
    "broken flows",
    "longest gap",
];

/// An empty file for a tier's rows; its path.
pub(super) fn begin(target: Target) -> Result<PathBuf> {
    let path = places::root()
        .join("target")
        .join(format!("{}-table.tsv", target.name));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(path),
    }
}

/// The lines to print; none where the tier measured nothing.
pub(super) fn lines(path: &PathBuf) -> Result<Vec<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(align(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn align(text: &str) -> Vec<String> {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(text.lines().map(|line| {
        let mut cells: Vec<String> = line.split('\t').map(str::to_owned).collect();
        if let Some(gap) = cells.get_mut(HEAD.len() - 1) {
            gap.push_str(" ms");
        }
        cells
    }));
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).enumerate();
            let padded = cells.map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            padded.collect::<Vec<_>>().join(" | ")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_one_another() {
        let lines = align("SIGTERM and start\t2000\t0\t0\t12\nkill\t1\t1\t1\t4\n");
        assert_eq!(
            lines,
            [
                "event             | probes | lost probes | broken flows | longest gap",
                "SIGTERM and start |   2000 |           0 |            0 |       12 ms",
                "kill              |      1 |           1 |            1 |        4 ms",
            ]
        );
    }
}
