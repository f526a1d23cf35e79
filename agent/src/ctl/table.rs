//! Printing: tables for people, JSON for programs.

#![expect(clippy::print_stdout, reason = "this is what twillctl is for")]

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use comfy_table::{Attribute, Cell, CellAlignment, Table};
use serde::Serialize;

/// Prints JSON.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("write JSON")?;
    println!("{text}");
    Ok(())
}

/// Prints a line.
pub(super) fn line(text: &str) {
    println!("{text}");
}

/// Prints a table; numbers to the right, headings in bold on a terminal.
pub(super) fn rows(headings: &[&str], rows: Vec<Vec<String>>) {
    let terminal = std::io::stdout().is_terminal();
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
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
    println!("{}", table.trim_fmt());
}
