//! One record of the map of permits, judged and put into words.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use twill_abi::{FlowTuple, PERMIT_FLAG_DIRECT, PERMIT_TOMBSTONE, Permit, VTEP_FLAG_ACTIVE, Vtep};
use twill_datapath::permit_state::{State, judge};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What is known beside the record.
pub(super) struct Surroundings<'a> {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub(super) now_ns: u64,
    /// Name of an interface.
    pub(super) interface: &'a dyn Fn(u32) -> Option<String>,
    /// The entry of the map `vteps`, where the index is one.
    pub(super) vtep: &'a dyn Fn(u32) -> Option<Vtep>,
}

/// A record in words and seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct View {
    pub(crate) state: State,
    /// Why it is garbage.
    pub(crate) why: Option<String>,
    /// `permit` or `direct`.
    pub(crate) kind: &'static str,
    pub(crate) protocol: String,
    /// The pod's side, as the pod knows it.
    pub(crate) local: String,
    /// The other side, as the pod knows it.
    pub(crate) remote: String,
    /// The pod's side on the wire.
    pub(crate) wire_local: String,
    /// The other side on the wire.
    pub(crate) wire_remote: String,
    /// Whether the two differ.
    pub(crate) nat: bool,
    pub(crate) ifindex: u32,
    /// The pod's host-side veth.
    pub(crate) interface: Option<String>,
    pub(crate) vtep_index: u32,
    /// Underlay address of the VTEP.
    pub(crate) vtep: Option<IpAddr>,
    /// Whether the VTEP has changed since: then the record maps nothing.
    pub(crate) stale_vtep: bool,
    pub(crate) age_seconds: f64,
    /// Time left, out of the pod.
    pub(crate) out_seconds: f64,
    /// Time left, into the pod.
    pub(crate) in_seconds: f64,
    /// Until the next probe out; null: none is due.
    pub(crate) probe_out_seconds: Option<f64>,
    /// Until the next probe in; null: it waits for the one out.
    pub(crate) probe_in_seconds: Option<f64>,
    /// Until nothing is left of the tombstone.
    pub(crate) tombstone_seconds: Option<f64>,
    pub(crate) probes: u32,
    pub(crate) renewals: u32,
    /// The addresses that a filter looks at.
    #[serde(skip)]
    pub(crate) addresses: Addresses,
}

/// Addresses of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Addresses {
    pub(crate) pod: IpAddr,
    pub(crate) peer: IpAddr,
    pub(crate) wire_peer: IpAddr,
}

impl Addresses {
    pub(super) fn of(key: &FlowTuple, record: &Permit) -> Self {
        Self {
            pod: key.local.into(),
            peer: key.remote.into(),
            wire_peer: record.wire.remote.into(),
        }
    }
}

impl View {
    pub(super) fn of(key: &FlowTuple, record: &Permit, around: &Surroundings<'_>) -> Self {
        let now_ns = around.now_ns;
        let (state, why) = judge(key, record, now_ns);
        let vtep = (around.vtep)(record.vtep).filter(|vtep| vtep.flags & VTEP_FLAG_ACTIVE != 0);
        let direct = record.flags & PERMIT_FLAG_DIRECT != 0;
        // A half learned record knows no VTEP yet.
        let knows_vtep = record.out_until_ns != 0;
        Self {
            state,
            why,
            kind: if direct { "direct" } else { "permit" },
            protocol: protocol(key.protocol),
            local: side(key.local.into(), key.local_port.to_host()),
            remote: side(key.remote.into(), key.remote_port.to_host()),
            wire_local: side(record.wire.local.into(), record.wire.local_port.to_host()),
            wire_remote: side(record.wire.remote.into(), record.wire.remote_port.to_host()),
            nat: record.wire != *key,
            ifindex: record.ifindex,
            interface: (around.interface)(record.ifindex),
            vtep_index: record.vtep,
            vtep: vtep
                .filter(|_| knows_vtep)
                .map(|vtep| IpAddr::from(vtep.underlay)),
            stale_vtep: knows_vtep
                && vtep.is_none_or(|vtep| vtep.generation != record.vtep_generation),
            age_seconds: seconds(now_ns.saturating_sub(record.since_ns)),
            out_seconds: seconds(record.out_until_ns.saturating_sub(now_ns)),
            in_seconds: seconds(record.in_until_ns.saturating_sub(now_ns)),
            probe_out_seconds: until(record.probe_out_at_ns, now_ns).filter(|_| !direct),
            probe_in_seconds: until(record.probe_in_at_ns, now_ns).filter(|_| !direct),
            tombstone_seconds: (record.state == PERMIT_TOMBSTONE)
                .then(|| seconds(record.tombstone_until_ns.saturating_sub(now_ns))),
            probes: record.probes,
            renewals: record.renewals,
            addresses: Addresses::of(key, record),
        }
    }

    /// The other side for people: `10.96.0.1:80 → 10.244.2.2:8080` behind NAT.
    pub(super) fn peer(&self) -> String {
        if self.remote == self.wire_remote {
            self.remote.clone()
        } else {
            format!("{} → {}", self.remote, self.wire_remote)
        }
    }

    /// The pod's side for people.
    pub(super) fn pod(&self) -> String {
        if self.local == self.wire_local {
            self.local.clone()
        } else {
            format!("{} → {}", self.local, self.wire_local)
        }
    }
}

fn protocol(number: u8) -> String {
    match number {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn side(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// Seconds to a tenth: nobody reads more, and what was read a moment later looks the same.
fn seconds(ns: u64) -> f64 {
    let tenths = ns / 100_000_000;
    // No clock comes near the bits that are lost.
    #[expect(
        clippy::cast_precision_loss,
        reason = "54 bits of tenths are 10^7 years"
    )]
    let seconds = tenths as f64 / 10.0;
    seconds
}

fn until(at_ns: u64, now_ns: u64) -> Option<f64> {
    (at_ns != u64::MAX).then(|| seconds(at_ns.saturating_sub(now_ns)))
}
