//! Where a pod is by its own word, which it gives with every ARP packet.

use twill_abi::{LocalPod, Program, Reason};

use super::direct_out::direct;
use super::flow::{BRIDGE_MAC, POD_MAC, permitting, place, word};
use crate::check::{Case, check};
use crate::lab::{Lab, monotonic_ns};
use crate::tables::Tables;
use crate::world::{OTHER_MAC, POD_A1, POD_B1};

/// A reply in which a pod tells its address.
struct Reply {
    source: [u8; 6],
    kinds: [u8; 6],
    mac: [u8; 6],
    address: [u8; 4],
}

impl Reply {
    fn new() -> Self {
        Self {
            source: POD_MAC,
            kinds: [0, 1, 8, 0, 6, 4],
            mac: POD_MAC,
            address: POD_A1.octets(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let ethernet = [&BRIDGE_MAC[..], &self.source, &[0x08, 0x06]];
        let sender = [&self.kinds[..], &[0, 2], &self.mac, &self.address];
        let target = [&BRIDGE_MAC[..], &[10, 244, 1, 1]];
        [ethernet.concat(), sender.concat(), target.concat()].concat()
    }
}

fn case(name: &str, tables: Tables, frame: Vec<u8>) -> Case {
    Case::passed(name, Program::FromPod, tables, frame, Reason::NotIp)
}

#[test]
fn a_pod_says_where_it_is() {
    let Some(lab) = Lab::open() else { return };
    let said = |name: &str, before: Option<LocalPod>| {
        for tables in [direct(&lab), permitting(&lab)] {
            let case = case(name, tables, Reply::new().bytes()).with(|tables| {
                if let Some(before) = before {
                    tables.flows.local_pods.set(POD_A1.into(), before);
                }
            });
            check(
                &lab,
                &case.then(|flows| flows.local_pods.set(POD_A1.into(), word(&lab))),
            );
        }
    };
    let now = monotonic_ns();
    said("anew", None);
    said(
        "elsewhere before",
        Some(LocalPod {
            ifindex: lab.other_veth,
            ..place(&lab, now)
        }),
    );
    said(
        "another before",
        Some(LocalPod {
            pod_mac: OTHER_MAC,
            ..place(&lab, now)
        }),
    );
    // What the stack has confirmed stays so.
    let known = case("known", direct(&lab), Reply::new().bytes());
    check(
        &lab,
        &known.with(|tables| {
            tables.flows.local_pods.set(POD_A1.into(), place(&lab, now));
        }),
    );
}

#[test]
fn what_is_no_pods_own_word_is_not_heard() {
    let Some(lab) = Lab::open() else { return };
    let unheard = |name: &str, reply: &Reply| {
        check(&lab, &case(name, direct(&lab), reply.bytes()));
    };
    unheard(
        "another frame's source",
        &Reply {
            source: OTHER_MAC,
            ..Reply::new()
        },
    );
    unheard(
        "another subnet's address",
        &Reply {
            address: POD_B1.octets(),
            ..Reply::new()
        },
    );
    unheard(
        "not IPv4",
        &Reply {
            kinds: [0, 1, 0x86, 0xdd, 6, 16],
            ..Reply::new()
        },
    );
    let whole = Reply::new().bytes();
    let off = case("off", lab.tables(), whole.clone());
    check(
        &lab,
        &off.expecting(|expected| expected.reason = Some(Reason::FastPathOff)),
    );
    for length in [14, 20, 31] {
        let frame = whole[..length].to_vec();
        check(&lab, &case("cut", direct(&lab), frame));
    }
}
