//! The guard: the same answer and the same counter by XDP in both forms and by TC,
//! and a drop only where it enforces.

mod forged;
mod limits;
mod pods;

use aya::maps::{HashMap, MapData};
use twill_abi::maps::STRANGERS;
use twill_abi::{
    Address, CONFIG_FLAG_BARE_UPLINK, CONFIG_FLAG_GUARD_AT_TC, CONFIG_FLAG_LEASES_COMPLETE,
    Counter, Guard, Program, Reason, Stranger,
};

use super::check::NEXT;
use super::lab::{Lab, SHORTEST, monotonic_ns};
use super::tables::Tables;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// `TC_ACT_SHOT`.
pub(super) const SHOT: i32 = 2;
/// Both forms of the XDP program.
const FORMS: [&str; 2] = ["guard", "guard_whole"];

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// Neither counted nor touched.
    Ignored,
    /// Counted under a reason and passed on, even where the guard enforces.
    Passed(Reason),
    /// Counted under a reason, and dropped where the guard enforces.
    Refused(Reason),
}

/// The lab with the named world in its maps.
pub(super) fn open() -> Option<Lab> {
    let lab = Lab::open()?;
    lab.prepare(&lab.tables());
    Some(lab)
}

/// The named world with the guard in this mode, its agent alive and knowing every lease.
pub(super) fn guarded(lab: &Lab, guard: Guard) -> Tables {
    let mut tables = lab.tables();
    tables.config.guard = guard as u32;
    tables.config.flags |= CONFIG_FLAG_LEASES_COMPLETE | CONFIG_FLAG_GUARD_AT_TC;
    tables.config.heartbeat_ns = monotonic_ns();
    tables
}

/// Holds the guard to what must become of a frame: in each of its forms, counting and enforcing.
pub(super) fn check(lab: &Lab, name: &str, frame: &[u8], fate: Fate) {
    for guard in [Guard::Count, Guard::Enforce] {
        check_with(lab, name, frame, fate, &guarded(lab, guard));
    }
}

/// [`check`] with these settings. Whether a refused frame is dropped follows `config.guard` alone.
pub(super) fn check_with(lab: &Lab, name: &str, frame: &[u8], fate: Fate, tables: &Tables) {
    let enforces = tables.config.guard == Guard::Enforce as u32;
    let dropped = enforces && matches!(fate, Fate::Refused(_));
    lab.configure(tables);
    for form in FORMS {
        let ((verdict, after), counted) = counting(lab, || lab.give_frame(form, frame));
        let wanted = if dropped { XDP_DROP } else { XDP_PASS };
        assert_eq!(verdict, wanted, "{form}: {name}: the verdict");
        assert_eq!(after, frame, "{form}: {name}: the bytes");
        assert_eq!(counted, fate.counted(frame), "{form}: {name}");
    }
    // The kernel runs nothing by TC on less.
    if frame.len() < SHORTEST {
        return;
    }
    check_tc(lab, name, frame, fate, dropped);
}

fn check_tc(lab: &Lab, name: &str, frame: &[u8], fate: Fate, dropped: bool) {
    let (verdict, counted) = counting(lab, || lab.verdict(Program::FromUplink, frame));
    let wanted = if dropped { SHOT } else { NEXT };
    assert_eq!(verdict, wanted, "from_uplink: {name}: the verdict");
    assert_eq!(counted, fate.counted(frame), "from_uplink: {name}");
}

/// The same by TC alone, on an uplink without Ethernet headers. The kernel runs a program on
/// Ethernet only, so this proves that whatever is in front of the IP header is not looked at.
pub(super) fn check_bare(lab: &Lab, name: &str, frame: &[u8], fate: Fate) {
    for guard in [Guard::Count, Guard::Enforce] {
        let mut tables = guarded(lab, guard);
        tables.config.flags |= CONFIG_FLAG_BARE_UPLINK;
        lab.configure(&tables);
        for mac in [[0; 12], [0xff; 12]] {
            let mut frame = frame.to_vec();
            frame[..mac.len()].copy_from_slice(&mac);
            let dropped = guard == Guard::Enforce && matches!(fate, Fate::Refused(_));
            check_tc(lab, name, &frame, fate, dropped);
        }
    }
}

impl Fate {
    /// What the guard counts.
    fn counted(self, frame: &[u8]) -> Option<(Reason, Counter)> {
        let counter = Counter {
            packets: 1,
            bytes: frame.len() as u64,
        };
        match self {
            Self::Ignored => None,
            Self::Passed(reason) | Self::Refused(reason) => Some((reason, counter)),
        }
    }
}

/// What the guard counts meanwhile, which is one packet or none.
fn counting<T>(lab: &Lab, act: impl FnOnce() -> T) -> (T, Option<(Reason, Counter)>) {
    let before = lab.counts(Program::Guard);
    let done = act();
    let mut moved = lab.counts(Program::Guard);
    for (reason, before) in before {
        let now = moved.get_mut(&reason).expect("counters do not go back");
        now.packets -= before.packets;
        now.bytes -= before.bytes;
    }
    moved.retain(|_, counter| counter.packets > 0);
    assert!(moved.len() <= 1, "counted twice: {moved:?}");
    (done, moved.pop_first())
}

/// What is remembered of strangers, by address.
pub(super) fn strangers(lab: &Lab) -> Vec<(std::net::IpAddr, Stranger)> {
    let ebpf = lab.ebpf();
    let map = ebpf.map(STRANGERS.name).expect("the object has it");
    let map: HashMap<&MapData, Address, Stranger> = map.try_into().expect("a hash");
    let entries = map.iter().map(|entry| entry.expect("read strangers"));
    let mut found: Vec<_> = entries
        .map(|(address, stranger)| (address.into(), stranger))
        .collect();
    found.sort_by_key(|&(address, _)| address);
    found
}
