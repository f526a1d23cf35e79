//! `twillctl counters`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Place, table};
use crate::datapath::reader::Reader;
use crate::datapath::stats::Count;

pub(super) fn run(place: &Place, all: bool) -> Result<ExitCode> {
    let reader = Reader::open(&place.pins()).context("open the pins")?;
    let counts: Vec<Count> = reader
        .counters()
        .all()
        .context("read the counters")?
        .into_iter()
        .filter(|count| all || count.packets != 0)
        .collect();
    if place.json {
        let counts: Vec<_> = counts.iter().map(describe).collect();
        table::json(&json!({ "counters": counts }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if counts.is_empty() {
        table::line("no packets yet")?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = counts
        .iter()
        .map(|count| {
            vec![
                count.program.label().to_owned(),
                count.reason.label().to_owned(),
                count.packets.to_string(),
                count.bytes.to_string(),
                count.reason.explanation().to_owned(),
            ]
        })
        .collect();
    table::rows(&["PROGRAM", "REASON", "PACKETS", "BYTES", "MEANING"], rows)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(count: &Count) -> serde_json::Value {
    json!({
        "program": count.program.label(),
        "reason": count.reason.label(),
        "packets": count.packets,
        "bytes": count.bytes,
        "explanation": count.reason.explanation(),
    })
}
