//! `twillctl permits watch`: the maps are read twice a second, and what differs is told.
//!
//! What comes and goes between two looks is not seen.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::record::View;
use super::{Place, Which, read, table};
use twill_datapath::reader::Reader;

const EVERY: Duration = Duration::from_millis(500);

/// How a record differs from the last look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// It was not there, or it is another flow's of the same tuple.
    New,
    /// Another state, another wire tuple, another veth, or another VTEP.
    Changed,
    /// It is gone.
    Gone,
}

impl Change {
    fn label(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Gone => "gone",
        }
    }
}

pub(super) async fn run(place: &Place, which: Which) -> Result<ExitCode> {
    let began = Instant::now();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = BTreeMap::new();
    loop {
        ticks.tick().await;
        // Opened anew: a start of the agent may have replaced the maps.
        let reader = Reader::open(&place.pins()).context("open the pins")?;
        let mut now = read(&reader)?;
        now.retain(|_, view| which.fits(&view.addresses));
        for (change, view) in changes(&before, &now) {
            if !tell(place, began.elapsed(), change, view)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        before = now;
    }
}

/// What differs, in the order of the tuples; what is gone comes last.
pub(super) fn changes<'a>(
    before: &'a BTreeMap<String, View>,
    now: &'a BTreeMap<String, View>,
) -> Vec<(Change, &'a View)> {
    let present = now.iter().filter_map(|(name, view)| {
        let change = match before.get(name) {
            None => Some(Change::New),
            Some(was) => changed(was, view).then_some(Change::Changed),
        };
        Some((change?, view))
    });
    let gone = before
        .iter()
        .filter(|(name, _)| !now.contains_key(*name))
        .map(|(_, view)| (Change::Gone, view));
    present.chain(gone).collect()
}

/// Times and counts change all the while; that is no news.
fn changed(was: &View, is: &View) -> bool {
    let told = |view: &View| {
        let vtep = (view.vtep, view.stale_vtep);
        let wire = (view.wire_local.clone(), view.wire_remote.clone());
        (view.state, view.kind, wire, view.ifindex, vtep)
    };
    told(was) != told(is)
}

/// Whether anybody still listens.
fn tell(place: &Place, at: Duration, change: Change, view: &View) -> Result<bool> {
    let at_seconds = (at.as_secs_f64() * 10.0).round() / 10.0;
    if place.json {
        let mut text =
            json!({ "at_seconds": at_seconds, "change": change.label(), "permit": view })
                .to_string();
        // One line each, so that a reader need not wait for the end.
        text.retain(|c| c != '\n');
        return table::heard(&text);
    }
    let interface = view.interface.as_deref().unwrap_or("no interface");
    let why = view.why.iter().map(|why| format!(": {why}"));
    table::heard(&format!(
        "{at_seconds:7.1} {:<7} {:<9} {} {} {} {} on {interface}, {} probes, {} renewals{}",
        change.label(),
        view.state.label(),
        view.kind,
        view.protocol,
        view.pod(),
        view.peer(),
        view.probes,
        view.renewals,
        why.collect::<String>(),
    ))
}
