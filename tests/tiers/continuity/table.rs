//! The table of what was measured, in the file that `TWILL_TABLE` names.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use twill_testbed::traffic::Report;

/// Names the file; the tier's runner prints it.
const VARIABLE: &str = "TWILL_TABLE";

/// Adds a line: what happened, and what it cost the traffic.
pub(crate) fn add(event: &str, report: &Report) -> Result<()> {
    let datagrams = &report.datagrams;
    let line = format!(
        "{event}\t{}\t{}\t{}\t{}\n",
        datagrams.sent,
        datagrams.lost,
        report.broken_flows(),
        datagrams.longest_gap_ms
    );
    let Some(path) = std::env::var_os(VARIABLE) else {
        return Ok(());
    };
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    // One write: tests in other threads add their lines too.
    file.write_all(line.as_bytes())
        .with_context(|| format!("write {}", path.display()))
}
