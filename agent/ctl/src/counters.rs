//! `twillctl counters`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;
use twill_abi::{Program, Reason};

use super::{Place, table};
use twill_datapath::reader::Reader;
use twill_datapath::stats::Count;

/// Which counters are told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Which {
    /// Zeroes too.
    All,
    /// Those that moved.
    Moved,
    /// Those that kept packets of flows from the fast path, the most frequent first.
    Slow,
}

/// What there is to do about packets that were not fast.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Slow {
    /// As it should be: without these packets there would be no fast ones.
    Expected,
    /// It passes, or it is the flow's nature.
    Nature,
    /// Something for the operator to look at.
    Look,
}

impl Slow {
    fn label(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Nature => "nature",
            Self::Look => "look",
        }
    }
}

pub(super) fn run(place: &Place, which: Which) -> Result<ExitCode> {
    let reader = Reader::open(&place.pins()).context("open the pins")?;
    let all = reader.counters().all().context("read the counters")?;
    let counts = chosen(all, which);
    if place.json {
        let counts: Vec<_> = counts.iter().map(describe).collect();
        table::json(&json!({ "counters": counts }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if counts.is_empty() {
        table::line(match which {
            Which::Slow => "no packet of a flow was kept from the fast path yet",
            Which::All | Which::Moved => "no packets yet",
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = counts
        .iter()
        .map(|count| {
            let mut row = vec![
                count.program.label().to_owned(),
                count.reason.label().to_owned(),
                count.packets.to_string(),
                count.bytes.to_string(),
            ];
            if which == Which::Slow {
                row.push(judged(count).map_or("", Slow::label).to_owned());
            }
            row.push(count.reason.explanation().to_owned());
            row
        })
        .collect();
    let headings: &[&str] = if which == Which::Slow {
        &["PROGRAM", "REASON", "PACKETS", "BYTES", "IS", "MEANING"]
    } else {
        &["PROGRAM", "REASON", "PACKETS", "BYTES", "MEANING"]
    };
    table::rows(headings, rows)?;
    Ok(ExitCode::SUCCESS)
}

fn chosen(counts: Vec<Count>, which: Which) -> Vec<Count> {
    let mut counts = counts;
    match which {
        Which::All => {}
        Which::Moved => counts.retain(|count| count.packets != 0),
        Which::Slow => {
            counts.retain(|count| count.packets != 0 && judged(count).is_some());
            counts.sort_by_key(|count| std::cmp::Reverse(count.packets));
        }
    }
    counts
}

fn judged(count: &Count) -> Option<Slow> {
    slow(count.program, count.reason)
}

/// Whether this kept a packet from the fast path that might have taken it, and what to think of
/// that. `to_overlay` and `to_pod` see only what is slow already; of theirs, only that counts
/// which keeps a flow from its permit or from BPF's encapsulation.
fn slow(program: Program, reason: Reason) -> Option<Slow> {
    let to_pod = program == Program::ToPod;
    // The guard carries nothing, so it slows nothing down; what `to_uplink` looks at is the
    // kernel's already.
    if matches!(program, Program::Guard | Program::ToUplink) {
        return None;
    }
    match reason {
        // Carried, or not of a flow, or counted beside another reason.
        Reason::Fast
        | Reason::NotIp
        | Reason::NotVxlan
        | Reason::NoOverlayRoute
        | Reason::LocalDestination
        | Reason::Learned
        | Reason::OuterConfirmed
        | Reason::NotFromOverlay
        // Not VXLAN of this network, or forged.
        | Reason::VxlanFlags
        | Reason::WrongVni
        | Reason::UnknownVtep
        | Reason::ForeignInnerSource
        | Reason::ForeignInnerDestination
        | Reason::ForeignInnerMac
        | Reason::OuterMalformed
        | Reason::PodVxlan
        | Reason::IpMalformed
        | Reason::Truncated => None,
        Reason::Opening
        | Reason::Closing
        | Reason::Tombstone
        | Reason::Probe
        | Reason::OuterProbe => (!to_pod).then_some(Slow::Expected),
        Reason::VlanTag
        | Reason::IpOptions
        | Reason::Fragment
        | Reason::NotTransport
        | Reason::LastHop
        | Reason::UdpSegments
        | Reason::UnknownGso
        | Reason::EcnBroken => (!to_pod).then_some(Slow::Nature),
        Reason::ModeKernel
        | Reason::FastPathOff
        | Reason::Trusted
        | Reason::NoVtep
        | Reason::NextHopUnresolved
        | Reason::NextHopUnusable
        | Reason::NextHopElsewhere
        | Reason::EncapRefused
        | Reason::DecapRefused
        | Reason::OverPathMtu
        | Reason::OuterPermitExpired
        | Reason::NextHopDisputed
        | Reason::RoutedByRule
        | Reason::NoPermit
        | Reason::PermitExpired
        | Reason::ForeignVeth
        | Reason::StaleVtep
        | Reason::NoMemory
        | Reason::NotAccepted
        | Reason::Ended
        | Reason::NeverFast
        | Reason::NoRoomForPermit
        | Reason::StackOwned
        | Reason::OuterUnverified => Some(Slow::Look),
    }
}

fn describe(count: &Count) -> serde_json::Value {
    json!({
        "program": count.program.label(),
        "reason": count.reason.label(),
        "packets": count.packets,
        "bytes": count.bytes,
        "slow": judged(count).map(Slow::label),
        "explanation": count.reason.explanation(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_kept_packets_from_the_fast_path_is_told_the_most_frequent_first() {
        let count = |program, reason, packets| Count {
            program,
            reason,
            packets,
            bytes: packets * 100,
        };
        let counts = vec![
            count(Program::FromPod, Reason::Fast, 1000),
            count(Program::FromPod, Reason::Probe, 3),
            count(Program::FromPod, Reason::PermitExpired, 0),
            count(Program::FromPod, Reason::NeverFast, 7),
            count(Program::FromUplink, Reason::NotVxlan, 500),
            count(Program::ToPod, Reason::Closing, 9),
        ];
        let told: Vec<_> = chosen(counts.clone(), Which::Slow)
            .iter()
            .map(|count| (count.reason, judged(count)))
            .collect();
        assert_eq!(
            told,
            [
                (Reason::NeverFast, Some(Slow::Look)),
                (Reason::Probe, Some(Slow::Expected)),
            ]
        );
        assert_eq!(chosen(counts.clone(), Which::Moved).len(), 5);
        assert_eq!(chosen(counts, Which::All).len(), 6);
    }
}
