//! Tables in columns of text, without lines, for a terminal.

use comfy_table::{CellAlignment, Row, Table, presets};

/// A table with this head.
pub fn plain(head: impl Into<Row>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head);
    table
}

/// Sets columns against their right edge, as figures are read.
pub fn right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The text, without blanks at the ends of its lines.
pub fn text(table: &Table) -> String {
    let text = table.to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// The text of a table that has figures in every column but the first.
pub fn figures(mut table: Table) -> String {
    let columns = 1..table.column_count();
    right(&mut table, columns);
    text(&table)
}
