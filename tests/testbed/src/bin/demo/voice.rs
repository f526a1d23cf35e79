//! How the demo speaks: to people on standard output, or to scripts, in which case people
//! read along on standard error.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr, stdout};

use comfy_table::{Table, presets};

use crate::findings::Findings;

/// Where the demo's words go, and whether in colour.
pub(crate) struct Voice {
    json: bool,
    colour: bool,
}

impl Voice {
    pub(crate) fn new(json: bool) -> Self {
        let terminal = if json {
            stderr().is_terminal()
        } else {
            stdout().is_terminal()
        };
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            json,
            colour: terminal && wanted,
        }
    }

    /// A part of the demo begins.
    pub(crate) fn heading(&self, text: &str) {
        self.line(format_args!("\n{}", self.styled("1", text)));
    }

    /// Something was built.
    pub(crate) fn built(&self, text: impl Display) {
        self.line(format_args!("  {text}"));
    }

    /// Something was proved.
    pub(crate) fn proved(&self, text: impl Display) {
        self.line(format_args!("  {} {text}", self.styled("32", "ok")));
    }

    /// Something to know about what was shown.
    pub(crate) fn note(&self, text: &str) {
        self.line(format_args!("  {}", self.styled("2", text)));
    }

    /// A table, its first row the head.
    pub(crate) fn table(&self, rows: &[Vec<String>]) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if let Some((head, body)) = rows.split_first() {
            table.set_header(head);
            table.add_rows(body);
        }
        for line in table.to_string().lines() {
            self.line(format_args!(" {}", line.trim_end()));
        }
    }

    /// The last line of a good end.
    pub(crate) fn ok(&self, word: &str) {
        self.line(format_args!("\ndemo: {}", self.styled("32", word)));
    }

    fn line(&self, text: std::fmt::Arguments<'_>) {
        if self.json {
            write_line(stderr(), text);
        } else {
            write_line(stdout(), text);
        }
    }

    fn styled(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The one document for scripts.
pub(crate) fn document(findings: &Findings) {
    let text = serde_json::to_string_pretty(findings)
        .unwrap_or_else(|error| format!("{{\"ok\":false,\"error\":\"{error}\"}}"));
    write_line(stdout(), format_args!("{text}"));
}

/// The last line of a bad end.
pub(crate) fn failed(why: &str) {
    write_line(stderr(), format_args!("\ndemo: failed: {why}"));
}

fn write_line(mut to: impl Write, text: std::fmt::Arguments<'_>) {
    // Nobody listens any more, as after `| head`: the demo still ends in order.
    drop(writeln!(to, "{text}").and_then(|()| to.flush()));
}
