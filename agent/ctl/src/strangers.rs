//! `twillctl strangers`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;
use twill_abi::Reason;

use super::status::interface;
use super::{Place, table};
use twill_datapath::strangers::{self, Sighting};

pub(super) fn run(place: &Place) -> Result<ExitCode> {
    let found = strangers::read(&place.pins()).context("read what the guard remembers")?;
    if place.json {
        let found: Vec<_> = found.iter().map(describe).collect();
        table::json(&json!({ "strangers": found }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if found.is_empty() {
        table::line("nobody who is no VTEP has sent VXLAN to this node")?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = found
        .iter()
        .map(|sighting| {
            vec![
                sighting.address.to_string(),
                sighting.packets.to_string(),
                sighting.dropped.to_string(),
                format!("{} s ago", sighting.first_seconds_ago),
                format!("{} s ago", sighting.last_seconds_ago),
                interface(sighting.ifindex),
                label(sighting).to_owned(),
            ]
        })
        .collect();
    let headings = [
        "SOURCE",
        "PACKETS",
        "DROPPED",
        "FIRST",
        "LAST",
        "BY",
        "LAST REASON",
    ];
    table::rows(&headings, rows)?;
    Ok(ExitCode::SUCCESS)
}

fn label(sighting: &Sighting) -> &'static str {
    sighting.reason.map_or("unknown", Reason::label)
}

fn describe(sighting: &Sighting) -> serde_json::Value {
    json!({
        "source": sighting.address.to_string(),
        "packets": sighting.packets,
        "dropped": sighting.dropped,
        "first_seconds_ago": sighting.first_seconds_ago,
        "last_seconds_ago": sighting.last_seconds_ago,
        "interface": interface(sighting.ifindex),
        "reason": label(sighting),
    })
}
