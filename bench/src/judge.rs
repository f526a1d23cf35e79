//! Whether a measurement ran as meant. One that did not gives no figure, but a sentence.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::case::{Case, Subject, Target, Traffic};
use crate::load::Measured;
use crate::stats::float;
use crate::subject::{Carried, Share};

/// Where a Twill subject's packets should be carried by BPF.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Past the host's stack, from veth to wire to veth.
    PastTheStack,
    /// Through the host's stack, encapsulated behind it.
    Encapsulated,
}

/// How many of the packets went the way that they should.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Went {
    /// The way.
    pub way: Way,
    /// The share of the packets.
    pub share: f64,
}

impl fmt::Display for Went {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.way {
            Way::PastTheStack => "past the stack",
            Way::Encapsulated => "through it, by to_overlay",
        };
        write!(formatter, "{:.0} % {place}", self.share * 100.0)
    }
}

/// At least so much of the packets must have gone the way that is measured.
const SHARE: f64 = 0.5;
/// Losing more than this share is not a rate, but a queue that overflows.
const LOSS: f64 = 0.01;

/// The way that a mode of Twill's is to go; none for other subjects.
///
/// Netfilter accepts a flow only when both sides have spoken. So one-way datagrams never
/// become fast by permit, and a connection of one request is over when it could be. The mode
/// `direct` asks nobody, but what a Service's rules rewrite it leaves to permits.
pub const fn way(subject: Subject, case: Case, target: Target) -> Option<Way> {
    let answered = !matches!(
        case.traffic(),
        Traffic::Connections | Traffic::Datagrams { .. }
    );
    match (subject, target) {
        (Subject::Off, _) => Some(Way::Encapsulated),
        (Subject::Direct, Target::Pod) => Some(Way::PastTheStack),
        (Subject::Permit, _) | (Subject::Direct, Target::Service) => Some(if answered {
            Way::PastTheStack
        } else {
            Way::Encapsulated
        }),
        (Subject::Host | Subject::Kernel | Subject::Again | Subject::Slowed, _) => None,
    }
}

/// The packets that went the way they should.
pub fn went(way: Way, carried: Carried) -> Went {
    let share = share(way, carried).value();
    Went { way, share }
}

fn share(way: Way, carried: Carried) -> Share {
    match way {
        Way::PastTheStack => carried.past_the_stack,
        Way::Encapsulated => carried.encapsulated,
    }
}

/// What did not go as meant, if anything.
pub fn problem(measured: &Measured, way: Option<Way>, carried: Option<Carried>) -> Option<String> {
    lost(measured.sent, measured.lost).or_else(|| fast_path(way?, carried?))
}

fn lost(sent: u64, lost: u64) -> Option<String> {
    let share = float(lost) / float(sent.max(1));
    (share > LOSS).then(|| {
        let percent = share * 100.0;
        format!("packets lost: {lost} of {sent} ({percent:.1} %)")
    })
}

fn fast_path(way: Way, carried: Carried) -> Option<String> {
    let share = share(way, carried);
    let Share { part, all } = share;
    let place = match way {
        Way::PastTheStack => "past the host's stack",
        Way::Encapsulated => "by the program on the overlay device",
    };
    if all == 0 {
        return Some(format!(
            "the programs met no packet: nothing was carried {place}"
        ));
    }
    if part == 0 {
        return Some(format!(
            "fast path never used: of {all} packets none was carried {place}"
        ));
    }
    (share.value() < SHARE).then(|| {
        let percent = share.value() * 100.0;
        format!(
            "fast path hardly used: of {all} packets {part} ({percent:.0} %) were carried {place}"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cpu::CpuTime;

    fn measured(sent: u64, lost: u64) -> Measured {
        Measured {
            per_second: 1.0,
            latency: None,
            sent,
            lost,
            retransmits: 0,
            cpu: CpuTime::default(),
            window: Duration::from_secs(1),
        }
    }

    fn check(part: u64, all: u64, expected: Option<&str>) {
        let carried = Carried {
            past_the_stack: Share { part, all },
            encapsulated: Share { part: 5, all: 5 },
        };
        let found = problem(&measured(100, 0), Some(Way::PastTheStack), Some(carried));
        assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
        if let (Some(found), Some(expected)) = (found, expected) {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn a_figure_that_is_not_the_fast_paths_is_none() {
        check(0, 0, Some("met no packet"));
        check(0, 100, Some("never used"));
        check(49, 100, Some("hardly used"));
        check(95, 100, None);
    }

    #[test]
    fn nobody_reads_of_a_packet_through_the_stack_that_it_was_fast() {
        for (way, told) in [
            (Way::PastTheStack, "40 % past the stack"),
            (Way::Encapsulated, "100 % through it, by to_overlay"),
        ] {
            let carried = Carried {
                past_the_stack: Share { part: 2, all: 5 },
                encapsulated: Share { part: 5, all: 5 },
            };
            assert_eq!(went(way, carried).to_string(), told);
        }
    }

    #[test]
    fn loss_is_told_and_a_stray_datagram_is_not() {
        assert_eq!(problem(&measured(1000, 10), None, None), None);
        let told = problem(&measured(1000, 11), None, None).unwrap();
        assert!(told.contains("11 of 1000"), "{told}");
    }

    #[test]
    fn what_no_permit_can_make_fast_is_not_asked_to_be() {
        use Way::{Encapsulated, PastTheStack};
        for (subject, case, target, expected) in [
            (Subject::Permit, Case::TcpRr, Target::Service, PastTheStack),
            (Subject::Permit, Case::Udp64, Target::Pod, Encapsulated),
            (Subject::Permit, Case::TcpCrr, Target::Pod, Encapsulated),
            (Subject::Direct, Case::Udp64, Target::Pod, PastTheStack),
            (Subject::Direct, Case::TcpCrr, Target::Service, Encapsulated),
            (Subject::Direct, Case::UdpRr, Target::Service, PastTheStack),
            (Subject::Off, Case::TcpStream, Target::Pod, Encapsulated),
        ] {
            assert_eq!(
                way(subject, case, target),
                Some(expected),
                "{subject} {case}"
            );
        }
        assert_eq!(way(Subject::Kernel, Case::TcpRr, Target::Pod), None);
    }
}
