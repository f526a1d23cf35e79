//! `twillctl permits`: lists the records of flows, ends them, watches them. From the pins alone.

mod record;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::json;
use twill_abi::{FlowTuple, Permit, Vtep};

use self::record::Surroundings;
pub(super) use self::record::{Addresses, View};
use super::{Place, table};
use twill_datapath::maps::monotonic_ns;
pub use twill_datapath::permit_state::State;
use twill_datapath::place::Interface;
use twill_datapath::reader::{self, Reader};

/// What to do with permits.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Lists them: what the pod sends, what netfilter made of it (`→`), and how long it holds.
    List {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// Only those in this state.
        #[arg(long, value_enum)]
        state: Option<State>,
    },
    /// Ends them at once: their flows go by the kernel, and are fast again when netfilter
    /// accepts them again.
    #[command(group = clap::ArgGroup::new("which").args(["pod", "peer", "all"]).required(true).multiple(true))]
    Flush {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// Every one.
        #[arg(long, conflicts_with_all = ["pod", "peer"])]
        all: bool,
    },
    /// Prints them as they come, change and go, until it is interrupted.
    Watch {
        /// Which.
        #[command(flatten)]
        which: Which,
    },
}

/// Which permits are meant.
#[derive(Args, Clone, Copy, Debug)]
pub struct Which {
    /// Those of the pod with this address.
    #[arg(long, value_name = "IP")]
    pub pod: Option<IpAddr>,
    /// Those to this address, as the pod knows it or as it is on the wire.
    #[arg(long, value_name = "IP")]
    pub peer: Option<IpAddr>,
}

impl Which {
    fn fits(&self, addresses: &Addresses) -> bool {
        let Addresses {
            pod,
            peer,
            wire_peer,
        } = *addresses;
        self.pod.is_none_or(|wanted| wanted == pod)
            && self
                .peer
                .is_none_or(|wanted| wanted == peer || wanted == wire_peer)
    }
}

pub(super) async fn run(place: &Place, command: &Command) -> Result<ExitCode> {
    match command {
        Command::List { which, state } => list(place, *which, *state),
        Command::Flush { which, all: _ } => flush(place, *which),
        Command::Watch { which } => watch::run(place, *which).await,
    }
}

fn list(place: &Place, which: Which, state: Option<State>) -> Result<ExitCode> {
    let reader = Reader::open(&place.pins()).context("open the pins")?;
    let views: Vec<View> = read(&reader)?
        .into_values()
        .filter(|view| which.fits(&view.addresses))
        .filter(|view| state.is_none_or(|wanted| wanted == view.state))
        .collect();
    if place.json {
        table::json(&json!({ "permits": views }))?;
    } else if views.is_empty() {
        table::line("no permits")?;
    } else {
        let rows = views.iter().map(row).collect();
        table::rows(
            &[
                "STATE", "KIND", "PROTO", "POD", "PEER", "VETH", "VTEP", "AGE", "OUT", "IN",
                "PROBE", "PROBES", "RENEWALS",
            ],
            rows,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Every record in words, in the order of its tuple.
pub(super) fn read(reader: &Reader) -> Result<BTreeMap<String, View>> {
    let interface = |ifindex| Some(Interface::at(ifindex)?.name);
    let vtep = |index| -> Option<Vtep> { reader.maps().vtep(index).ok() };
    let records = reader.permits().list().context("read the permits")?;
    let around = Surroundings {
        now_ns: monotonic_ns()?,
        interface: &interface,
        vtep: &vtep,
    };
    Ok(views(&records, &around))
}

fn views<'a>(
    records: impl IntoIterator<Item = (&'a FlowTuple, &'a Permit)>,
    around: &Surroundings<'_>,
) -> BTreeMap<String, View> {
    records
        .into_iter()
        .map(|(key, record)| {
            let view = View::of(key, record, around);
            // The reserved bytes tell a stranger's keys apart that look alike.
            let name = format!(
                "{} {} {} {:?}",
                view.protocol, view.local, view.remote, key.reserved
            );
            (name, view)
        })
        .collect()
}

fn row(view: &View) -> Vec<String> {
    let or_none = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |s| format!("{s:.1}"));
    let interface = view
        .interface
        .clone()
        .unwrap_or_else(|| format!("{} (gone)", view.ifindex));
    let vtep = match view.vtep {
        None => "-".to_owned(),
        Some(vtep) if view.stale_vtep => format!("{vtep} (stale)"),
        Some(vtep) => vtep.to_string(),
    };
    let state = match (&view.why, view.tombstone_seconds) {
        (Some(why), _) => format!("{}: {why}", view.state.label()),
        (None, Some(left)) => format!("{} {left:.0} s", view.state.label()),
        (None, None) => view.state.label().to_owned(),
    };
    let soonest = [view.probe_out_seconds, view.probe_in_seconds]
        .into_iter()
        .flatten()
        .reduce(f64::min);
    vec![
        state,
        view.kind.to_owned(),
        view.protocol.clone(),
        view.pod(),
        view.peer(),
        interface,
        vtep,
        format!("{:.1}", view.age_seconds),
        format!("{:.1}", view.out_seconds),
        format!("{:.1}", view.in_seconds),
        or_none(soonest),
        view.probes.to_string(),
        view.renewals.to_string(),
    ]
}

fn flush(place: &Place, which: Which) -> Result<ExitCode> {
    let mut permits = reader::permits(&place.pins()).context("open the pins")?;
    let ended = permits
        .end(|key, record| which.fits(&Addresses::of(key, record)))
        .context("end the permits")?;
    if place.json {
        table::json(&json!({ "ended": ended }))?;
    } else if ended == 1 {
        table::line("1 permit ended")?;
    } else {
        table::line(&format!("{ended} permits ended"))?;
    }
    Ok(ExitCode::SUCCESS)
}
