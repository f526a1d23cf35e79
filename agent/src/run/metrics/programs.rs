//! What the programs have counted and remember, read through the pins: it goes on with the
//! programs, whether or not this agent has loaded them.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tracing::debug;
use twill_abi::VtepCounter;

use super::node::{counters, family};
use crate::datapath::permit_state::{self, PermitCounts};
use crate::datapath::pins::Pins;
use crate::datapath::reader::Reader;
use crate::datapath::stats::Count;

/// VTEPs that have series of their own; the others share one.
const OWN_SERIES: usize = 1000;
/// What is told of the others.
const OTHERS: &str = "others";

/// A number that a VTEP's counter holds.
type Value = fn(&VtepCounter) -> u64;

/// Where the maps are pinned.
pub(super) struct Programs(pub(super) Pins);

/// One look at the maps.
struct Told {
    counts: Vec<Count>,
    vteps: BTreeMap<String, VtepCounter>,
    permits: PermitCounts,
}

impl Collector for Programs {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        match self.look() {
            Ok(told) => told.encode(&mut encoder),
            Err(error) => {
                // `twill_mode` says who carries packets, and the log why.
                debug!(error = format!("{error:#}"), "no metrics of the programs");
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Programs").field(&self.0.current()).finish()
    }
}

impl Programs {
    fn look(&self) -> Result<Told> {
        let reader = Reader::open(&self.0).context("open the pins")?;
        let vni = reader.maps().config().context("read the settings")?.vni;
        let observed = reader.maps().observe(vni).context("read the VTEPs")?;
        let mut vteps = BTreeMap::new();
        for (place, (&index, vtep)) in observed.vteps.iter().enumerate() {
            let label = if place < OWN_SERIES {
                vtep.underlay.to_string()
            } else {
                OTHERS.to_owned()
            };
            let counted = reader.counters().vtep(index)?;
            let sum = vteps.entry(label).or_insert(VtepCounter {
                encap_packets: 0,
                encap_bytes: 0,
                uplink_packets: 0,
                uplink_bytes: 0,
            });
            add(sum, counted);
        }
        Ok(Told {
            counts: reader.counters().all()?,
            vteps,
            permits: permit_state::count(&reader)?,
        })
    }
}

impl Told {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels = |count: &Count| {
            [
                ("program", count.program.label()),
                ("reason", count.reason.label()),
            ]
        };
        counters(
            encoder,
            "packets",
            "Packets that a program decided on, by reason; a GSO packet is one",
            self.counts.iter().map(|it| (labels(it), it.packets)),
        )?;
        counters(
            encoder,
            "bytes",
            "Bytes of these packets, Ethernet header included",
            self.counts.iter().map(|it| (labels(it), it.bytes)),
        )?;
        let values: [(&str, &str, Value); 4] = [
            (
                "vtep_sent_packets",
                "Packets that BPF sent to a node",
                |it| it.encap_packets,
            ),
            ("vtep_sent_bytes", "Bytes that BPF sent to a node", |it| {
                it.encap_bytes
            }),
            (
                "vtep_received_packets",
                "VXLAN packets that came from a node",
                |it| it.uplink_packets,
            ),
            (
                "vtep_received_bytes",
                "Bytes of VXLAN that came from a node",
                |it| it.uplink_bytes,
            ),
        ];
        for (name, help, value) in values {
            let rows = self.vteps.iter();
            let rows = rows.map(|(vtep, counted)| ([("vtep", vtep.as_str())], value(counted)));
            counters(encoder, name, help, rows)?;
        }
        let PermitCounts {
            live,
            half,
            expired,
            tombstone,
            garbage,
        } = self.permits;
        let states = [
            ("live", live),
            ("half", half),
            ("expired", expired),
            ("tombstone", tombstone),
            ("garbage", garbage),
        ];
        family(
            encoder,
            "permits",
            "Flows that are remembered, by state; the live ones are fast",
            states.map(|(state, count)| ([("state", state)], count.into())),
        )
    }
}

fn add(sum: &mut VtepCounter, counted: VtepCounter) {
    let VtepCounter {
        encap_packets,
        encap_bytes,
        uplink_packets,
        uplink_bytes,
    } = counted;
    sum.encap_packets = sum.encap_packets.wrapping_add(encap_packets);
    sum.encap_bytes = sum.encap_bytes.wrapping_add(encap_bytes);
    sum.uplink_packets = sum.uplink_packets.wrapping_add(uplink_packets);
    sum.uplink_bytes = sum.uplink_bytes.wrapping_add(uplink_bytes);
}
