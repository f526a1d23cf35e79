//! `twillctl vteps`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::json;

use super::{Place, table};
use twill_datapath::reader::{Reader, VtepStates, Way};

#[derive(Serialize)]
struct Row {
    subnet: String,
    underlay: String,
    mac: String,
    vni: u32,
    index: u32,
    way: Option<Way>,
    heard: bool,
    encap_packets: u64,
    encap_bytes: u64,
    uplink_packets: u64,
    uplink_bytes: u64,
}

pub(super) fn run(place: &Place) -> Result<ExitCode> {
    let reader = Reader::open(&place.pins()).context("open the pins")?;
    let states = VtepStates::open(&place.pins()).context("open the pins")?;
    let rows = read(&reader, &states)?;
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
                row.way.map_or("", Way::text).to_owned(),
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
            "CARRIED BY",
            "ENCAP PACKETS",
            "ENCAP BYTES",
            "FROM PACKETS",
            "FROM BYTES",
        ],
        cells,
    )?;
    Ok(ExitCode::SUCCESS)
}

fn read(reader: &Reader, states: &VtepStates) -> Result<Vec<Row>> {
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
                way: states
                    .way(index)
                    .context("read what is known of the ways")?,
                heard: states.is_heard(index).context("read what was heard")?,
                encap_packets: counted.encap_packets,
                encap_bytes: counted.encap_bytes,
                uplink_packets: counted.uplink_packets,
                uplink_bytes: counted.uplink_bytes,
            })
        })
        .collect()
}
