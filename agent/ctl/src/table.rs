//! Printing: tables for people, JSON for programs.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use comfy_table::{Attribute, Cell, CellAlignment, Table};
use serde::Serialize;

/// Prints JSON.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value).context("write JSON")?)
}

/// Prints a line. A reader that has seen enough, as `head`, is no error.
pub(super) fn line(text: &str) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("write to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints a line at once; whether anybody still reads.
pub(super) fn heard(text: &str) -> Result<bool> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("write to standard output"),
        Ok(()) => Ok(true),
    }
}

/// Prints what each value is, and the value.
pub(super) fn pairs(rows: &[(&str, String)]) -> Result<()> {
    let mut table = bare();
    for (what, value) in rows {
        table.add_row([*what, value.as_str()]);
    }
    line(&table.trim_fmt())
}

/// Prints a table; numbers to the right, headings in bold on a terminal.
pub(super) fn rows(headings: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
    let terminal = io::stdout().is_terminal();
    let mut table = bare();
    table.set_header(headings.iter().map(|heading| {
        let cell = Cell::new(heading);
        if terminal {
            cell.add_attribute(Attribute::Bold)
        } else {
            cell
        }
    }));
    for row in rows {
        table.add_row(row.into_iter().map(|text| {
            let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let cell = Cell::new(text);
            if number {
                cell.set_alignment(CellAlignment::Right)
            } else {
                cell
            }
        }));
    }
    line(&table.trim_fmt())
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table
}
