//! `twillctl vteps`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::json;

use super::{Place, table};
use crate::datapath::reader::Reader;

#[derive(Serialize)]
struct Row {
    subnet: String,
    underlay: String,
    mac: String,
    vni: u32,
    index: u32,
    encap_packets: u64,
    encap_bytes: u64,
    uplink_packets: u64,
    uplink_bytes: u64,
}

pub(super) fn run(place: &Place) -> Result<ExitCode> {
    let reader = Reader::open(&place.pins()).context("open the pins")?;
    let rows = read(&reader)?;
    if place.json {
        table::json(&json!({ "vteps": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        table::line("no other nodes in the maps")?;
        return Ok(ExitCode::SUCCESS);
    }
    let cells = rows
        .into_iter()
        .map(|row| {
            vec![
                row.subnet,
                row.underlay,
                row.mac,
                row.encap_packets.to_string(),
                row.encap_bytes.to_string(),
                row.uplink_packets.to_string(),
                row.uplink_bytes.to_string(),
            ]
        })
        .collect();
    table::rows(
        &[
            "SUBNET",
            "UNDERLAY",
            "MAC",
            "ENCAP PACKETS",
            "ENCAP BYTES",
            "FROM PACKETS",
            "FROM BYTES",
        ],
        cells,
    )?;
    Ok(ExitCode::SUCCESS)
}

fn read(reader: &Reader) -> Result<Vec<Row>> {
    let vni = reader.maps().config().context("read the settings")?.vni;
    let observed = reader.maps().observe(vni).context("read the VTEPs")?;
    observed
        .routes
        .iter()
        .map(|(subnet, &index)| {
            let counted = reader.counters().vtep(index).context("read the counters")?;
            let vtep = observed.vteps.get(&index);
            let nobody = || "none".to_owned();
            Ok(Row {
                subnet: subnet.to_string(),
                underlay: vtep.map_or_else(nobody, |vtep| vtep.underlay.to_string()),
                mac: vtep.map_or_else(nobody, |vtep| vtep.mac.to_string()),
                vni,
                index,
                encap_packets: counted.encap_packets,
                encap_bytes: counted.encap_bytes,
                uplink_packets: counted.uplink_packets,
                uplink_bytes: counted.uplink_bytes,
            })
        })
        .collect()
}
