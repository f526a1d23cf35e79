//! Which flows may skip the host's stack: the operator's word goes before the agent's, and what
//! was remembered under another word is not used.

use twill_abi::{
    Address, Be16, CONFIG_FLAG_STALE, FastPath, FlowTuple, PERMIT_FLAG_DIRECT, Permit, Program,
    Reason, VtepState,
};
use twill_testbed::packet::{Ethernet, Tcp, Udp};

use super::check::{NEXT, REDIRECT};
use super::lab::{Lab, counter_name, monotonic_ns};
use super::packets::{Outer, from_pod_b, payload, to_pod_b};
use super::sk_buff::SkBuff;
use super::tables::Tables;
use super::world::{OTHER_MAC, POD_A1, POD_B1, POD_MAC, VTEP_B};

/// The agent's word, the operator's, and what holds. Three is no word at all.
const WORDS: [(FastPath, Option<u32>, FastPath); 11] = [
    (FastPath::Off, None, FastPath::Off),
    (FastPath::Permit, None, FastPath::Permit),
    (FastPath::Direct, None, FastPath::Direct),
    (FastPath::Off, Some(1), FastPath::Permit),
    (FastPath::Off, Some(2), FastPath::Direct),
    (FastPath::Permit, Some(0), FastPath::Off),
    (FastPath::Permit, Some(2), FastPath::Direct),
    (FastPath::Direct, Some(0), FastPath::Off),
    (FastPath::Direct, Some(1), FastPath::Permit),
    (FastPath::Direct, Some(3), FastPath::Off),
    (FastPath::Permit, Some(u32::MAX), FastPath::Off),
];

const HOUR_NS: u64 = 3_600_000_000_000;

/// From our pod, as its veth brings it.
fn sent(packet: &[u8]) -> Vec<u8> {
    Ethernet::ipv4(POD_MAC, OTHER_MAC).over(packet)
}

fn segment_out() -> Vec<u8> {
    sent(&to_pod_b().tcp(&Tcp::new(40_000, 80), &payload(64)))
}

fn segment_in() -> Vec<u8> {
    Outer::from_node_b().over(&from_pod_b().tcp(&Tcp::new(80, 40_000), &payload(64)))
}

/// A record of the flow of the segments, good for an hour in both directions.
fn record(lab: &Lab, flags: u32) -> Permit {
    let tuple = FlowTuple {
        local: Address::from(POD_A1),
        remote: Address::from(POD_B1),
        local_port: Be16::from_host(40_000),
        remote_port: Be16::from_host(80),
        protocol: 6,
        reserved: [0; 3],
    };
    let until = monotonic_ns() + HOUR_NS;
    Permit {
        out_until_ns: until,
        in_until_ns: until,
        probe_out_at_ns: u64::MAX,
        vtep: VTEP_B,
        vtep_generation: lab.tables().vteps[VTEP_B as usize].generation,
        pod_mac: POD_MAC,
        gateway_mac: OTHER_MAC,
        sent_to_mac: OTHER_MAC,
        flags,
        ..Permit::new(&tuple, &tuple, lab.veth, 1)
    }
}

/// The verdict, and every counter that moved, by its name.
fn outcome(lab: &Lab, program: Program, tables: &Tables, packet: &[u8]) -> (i32, Vec<String>) {
    let output = lab
        .run(program, tables, packet, SkBuff::default())
        .expect("the kernel runs it");
    let counted = output.counted.into_keys().map(counter_name).collect();
    (output.verdict, counted)
}

fn passed(program: Program, reason: Reason) -> (i32, Vec<String>) {
    (
        NEXT,
        vec![format!("{}/{}", program.label(), reason.label())],
    )
}

fn redirected(program: Program) -> (i32, Vec<String>) {
    (REDIRECT, passed(program, Reason::Fast).1)
}

fn tables(lab: &Lab, agent: FastPath, operator: Option<u32>) -> Tables {
    let mut tables = lab.tables().with_fast_path(agent);
    // As where VXLAN comes from node B by the uplink.
    tables.states[VTEP_B as usize].heard_at = VtepState::tick(monotonic_ns());
    tables.states[VTEP_B as usize].generation = tables.vteps[VTEP_B as usize].generation;
    match operator {
        None => tables,
        Some(word) => tables.with_operator_fast_path(word),
    }
}

fn remembering(lab: &Lab, flags: u32, agent: FastPath, operator: Option<u32>) -> Tables {
    let mut tables = tables(lab, agent, operator);
    let record = record(lab, flags);
    tables.flows.permits.set(record.pod, record);
    tables
}

#[test]
fn the_operator_overrides_the_fast_path_of_the_agent() {
    let Some(lab) = Lab::open() else { return };
    let program = Program::FromPod;
    for (port, (agent, operator, holds)) in (41_000..).zip(WORDS) {
        // The first datagram of a flow that is new each time.
        let packet = sent(&to_pod_b().udp(&Udp::new(port, 53), &payload(64)));
        let expected = match holds {
            FastPath::Off => passed(program, Reason::FastPathOff),
            FastPath::Permit => passed(program, Reason::NoPermit),
            FastPath::Direct => redirected(program),
        };
        let tables = tables(&lab, agent, operator);
        let found = outcome(&lab, program, &tables, &packet);
        assert_eq!(found, expected, "agent {agent:?}, operator {operator:?}");
    }
}

#[test]
fn without_its_flag_the_operators_word_is_none() {
    let Some(lab) = Lab::open() else { return };
    let mut tables = lab.tables().with_fast_path(FastPath::Off);
    tables.operator.fast_path = FastPath::Direct as u32;
    let program = Program::FromPod;
    assert_eq!(
        outcome(&lab, program, &tables, &segment_out()),
        passed(program, Reason::FastPathOff)
    );
}

#[test]
fn an_agent_in_doubt_is_slow_whatever_the_operator_wants() {
    let Some(lab) = Lab::open() else { return };
    let mut tables = remembering(&lab, 0, FastPath::Permit, Some(2));
    tables.config.flags |= CONFIG_FLAG_STALE;
    for (program, packet, reason) in [
        (Program::FromPod, segment_out(), Reason::FastPathOff),
        (Program::FromUplink, segment_in(), Reason::Trusted),
    ] {
        let found = outcome(&lab, program, &tables, &packet);
        assert_eq!(found, passed(program, reason));
    }
}

#[test]
fn switched_off_no_permit_is_used() {
    let Some(lab) = Lab::open() else { return };
    for (agent, operator, holds) in WORDS {
        let tables = remembering(&lab, 0, agent, operator);
        for (program, packet, off) in [
            (Program::FromPod, segment_out(), Reason::FastPathOff),
            (Program::FromUplink, segment_in(), Reason::Trusted),
        ] {
            let expected = match holds {
                FastPath::Off => passed(program, off),
                FastPath::Permit | FastPath::Direct => redirected(program),
            };
            let found = outcome(&lab, program, &tables, &packet);
            assert_eq!(found, expected, "agent {agent:?}, operator {operator:?}");
        }
    }
}

#[test]
fn a_direct_record_is_used_only_while_direct_is_on() {
    let Some(lab) = Lab::open() else { return };
    for (agent, operator, holds) in WORDS {
        let tables = remembering(&lab, PERMIT_FLAG_DIRECT, agent, operator);
        for (program, packet, off) in [
            (Program::FromPod, segment_out(), Reason::FastPathOff),
            (Program::FromUplink, segment_in(), Reason::Trusted),
        ] {
            let expected = match holds {
                FastPath::Off => passed(program, off),
                FastPath::Permit => passed(program, Reason::NoPermit),
                FastPath::Direct => redirected(program),
            };
            let found = outcome(&lab, program, &tables, &packet);
            assert_eq!(found, expected, "agent {agent:?}, operator {operator:?}");
        }
    }
}
