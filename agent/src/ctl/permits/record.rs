//! One record of the map of permits, judged and put into words.

use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use serde::Serialize;
use twill_abi::{
    FlowTuple, PERMIT_FLAG_DIRECT, PERMIT_FLAG_UNANSWERED, PERMIT_LIVE, PERMIT_TOMBSTONE, Permit,
    VTEP_FLAG_ACTIVE, Vtep,
};

/// Nobody accepts a flow for longer: the largest --permit-time, and the idle time of a direct
/// record. With a minute for a clock that is read twice.
const LONGEST_NS: u64 = 3_660_000_000_000;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a record is good for right now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Both directions are accepted: packets are fast.
    Live,
    /// One direction is accepted, the other not yet or not any more.
    Half,
    /// No direction is accepted any more.
    Expired,
    /// The flow was closed: nothing is learned until a SYN or the tombstone's end.
    Tombstone,
    /// No program of ours wrote this.
    Garbage,
}

impl State {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Half => "half",
            Self::Expired => "expired",
            Self::Tombstone => "tombstone",
            Self::Garbage => "garbage",
        }
    }
}

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
pub(in crate::ctl) struct View {
    pub(in crate::ctl) state: State,
    /// Why it is garbage.
    pub(in crate::ctl) why: Option<String>,
    /// `permit` or `direct`.
    pub(in crate::ctl) kind: &'static str,
    pub(in crate::ctl) protocol: String,
    /// The pod's side, as the pod knows it.
    pub(in crate::ctl) local: String,
    /// The other side, as the pod knows it.
    pub(in crate::ctl) remote: String,
    /// The pod's side on the wire.
    pub(in crate::ctl) wire_local: String,
    /// The other side on the wire.
    pub(in crate::ctl) wire_remote: String,
    /// Whether the two differ.
    pub(in crate::ctl) nat: bool,
    pub(in crate::ctl) ifindex: u32,
    /// The pod's host-side veth.
    pub(in crate::ctl) interface: Option<String>,
    pub(in crate::ctl) vtep_index: u32,
    /// Underlay address of the VTEP.
    pub(in crate::ctl) vtep: Option<IpAddr>,
    /// Whether the VTEP has changed since: then the record maps nothing.
    pub(in crate::ctl) stale_vtep: bool,
    pub(in crate::ctl) age_seconds: f64,
    /// Time left, out of the pod.
    pub(in crate::ctl) out_seconds: f64,
    /// Time left, into the pod.
    pub(in crate::ctl) in_seconds: f64,
    /// Until the next probe out; null: none is due.
    pub(in crate::ctl) probe_out_seconds: Option<f64>,
    /// Until the next probe in; null: it waits for the one out.
    pub(in crate::ctl) probe_in_seconds: Option<f64>,
    /// Until nothing is left of the tombstone.
    pub(in crate::ctl) tombstone_seconds: Option<f64>,
    pub(in crate::ctl) probes: u32,
    pub(in crate::ctl) renewals: u32,
    /// The addresses that a filter looks at.
    #[serde(skip)]
    pub(in crate::ctl) addresses: Addresses,
}

/// Addresses of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ctl) struct Addresses {
    pub(in crate::ctl) pod: IpAddr,
    pub(in crate::ctl) peer: IpAddr,
    pub(in crate::ctl) wire_peer: IpAddr,
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

/// What a record is good for; of garbage also why it is.
pub(super) fn judge(key: &FlowTuple, record: &Permit, now_ns: u64) -> (State, Option<String>) {
    match objection(key, record, now_ns) {
        None => (state(record, now_ns), None),
        why => (State::Garbage, why),
    }
}

fn state(record: &Permit, now_ns: u64) -> State {
    if record.state == PERMIT_TOMBSTONE {
        return if now_ns < record.tombstone_until_ns {
            State::Tombstone
        } else {
            State::Expired
        };
    }
    match (now_ns < record.out_until_ns, now_ns < record.in_until_ns) {
        (true, true) => State::Live,
        (false, false) => State::Expired,
        _ => State::Half,
    }
}

/// Why no program of ours can have written this record.
fn objection(key: &FlowTuple, record: &Permit, now_ns: u64) -> Option<String> {
    let latest = now_ns.saturating_add(LONGEST_NS);
    let tuples = [key, &record.wire];
    if record.pod != *key {
        return Some("its tuple is not its key".to_owned());
    }
    if tuples
        .iter()
        .any(|tuple| !matches!(tuple.protocol, TCP | UDP))
    {
        return Some("neither TCP nor UDP".to_owned());
    }
    if key.protocol != record.wire.protocol {
        return Some("two protocols".to_owned());
    }
    if tuples.iter().any(|tuple| tuple.reserved != [0; 3]) {
        return Some("reserved bytes are not zero".to_owned());
    }
    if !matches!(record.state, PERMIT_LIVE | PERMIT_TOMBSTONE) {
        return Some(format!("unknown state {}", record.state));
    }
    if record.flags & !(PERMIT_FLAG_DIRECT | PERMIT_FLAG_UNANSWERED) != 0 {
        return Some(format!("unknown flags {:#x}", record.flags));
    }
    if record.out_until_ns > latest || record.in_until_ns > latest {
        return Some("accepted for longer than any permit".to_owned());
    }
    None
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
