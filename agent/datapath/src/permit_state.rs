//! What a record of the map of permits is good for, and how many are good for what.

use serde::Serialize;
use twill_abi::{
    FlowTuple, PERMIT_FLAG_DIRECT, PERMIT_FLAGS, PERMIT_LIVE, PERMIT_TOMBSTONE, Permit,
};

use crate::maps::monotonic_ns;
use crate::reader::{Reader, ReaderError};

/// Nobody accepts a flow for longer: the largest --permit-time, and the idle time of a direct
/// record. With a minute for a clock that is read twice.
const LONGEST_NS: u64 = 3_660_000_000_000;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a record is good for right now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
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
    /// Its word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Half => "half",
            Self::Expired => "expired",
            Self::Tombstone => "tombstone",
            Self::Garbage => "garbage",
        }
    }
}

/// What a record is good for; of garbage also why it is.
pub fn judge(key: &FlowTuple, record: &Permit, now_ns: u64) -> (State, Option<String>) {
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
    let is_direct = record.flags & PERMIT_FLAG_DIRECT != 0;
    let known = if is_direct { PERMIT_FLAGS } else { 0 };
    if record.flags & !known != 0 {
        return Some(format!("unknown flags {:#x}", record.flags));
    }
    if record.out_until_ns > latest || record.in_until_ns > latest {
        return Some("accepted for longer than any permit".to_owned());
    }
    None
}

/// How many records are in each state.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct PermitCounts {
    /// Both directions are accepted.
    pub live: u32,
    /// One direction is.
    pub half: u32,
    /// None is any more.
    pub expired: u32,
    /// Closed.
    pub tombstone: u32,
    /// Written by no program of ours.
    pub garbage: u32,
}

/// Counts the records.
pub fn count(reader: &Reader) -> Result<PermitCounts, ReaderError> {
    let records = reader.permits().list()?;
    let now_ns = monotonic_ns()?;
    let mut counts = PermitCounts::default();
    for (key, record) in &records {
        let count = match judge(key, record, now_ns).0 {
            State::Live => &mut counts.live,
            State::Half => &mut counts.half,
            State::Expired => &mut counts.expired,
            State::Tombstone => &mut counts.tombstone,
            State::Garbage => &mut counts.garbage,
        };
        *count += 1;
    }
    Ok(counts)
}
