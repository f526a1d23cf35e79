//! Random packets. Whatever comes, `from_uplink` hands it on as it came, and `to_overlay`
//! either does so or puts exactly its 50 bytes in front.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};
use twill_abi::{Program, counter_index};
use twill_testbed::packet::Ethernet;

use super::check::{NEXT, REDIRECT};
use super::lab::{Lab, Output, SHORTEST, cases, counter_name};
use super::packets::{Outer, datagram, echo, from_pod_b, leaving, numbered_as, segment, to_pod_b};
use super::sk_buff::SkBuff;
use super::tables::MARK_BIT;

/// Cases of each property; each costs a millisecond.
const CASES: u32 = 1_500;
/// Bytes that are put in front of an encapsulated packet.
const OVERHEAD: usize = 50;
/// What `BPF_PROG_TEST_RUN` takes.
const LENGTHS: std::ops::RangeInclusive<usize> = SHORTEST..=3_000;

/// A good packet with some bytes changed, some cut off or added.
fn mutated(good: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((0..120_usize, any::<u8>()), 0..4);
    let good = proptest::sample::select(good);
    (good, changes, -8..8_isize).prop_map(|(mut packet, changes, grow)| {
        for (place, byte) in changes {
            if let Some(at) = packet.get_mut(place) {
                *at = byte;
            }
        }
        let length = packet.len().saturating_add_signed(grow.min(grow * 3));
        packet.resize(length.max(SHORTEST), 0xa5);
        packet
    })
}

fn noise(good: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => mutated(good),
        1 => vec(any::<u8>(), LENGTHS),
    ]
}

/// Runs every packet through a program; `judge` says what must hold of the output.
fn for_all(
    program: Program,
    good: Vec<Vec<u8>>,
    judge: impl Fn(&[u8], &Output) -> Result<(), TestCaseError>,
) {
    let Some(lab) = Lab::open() else { return };
    let tables = lab.tables();
    let config = Config {
        cases: cases(CASES),
        failure_persistence: None,
        ..Config::default()
    };
    let context = SkBuff {
        mark: MARK_BIT | 7,
        ..SkBuff::default()
    };
    let result = TestRunner::new(config).run(&noise(good), |packet| {
        let output = lab.run(program, &tables, &packet, context);
        let output = output.map_err(|error| TestCaseError::fail(error.to_string()))?;
        check_one_counter(program, &packet, &output)?;
        prop_assert_eq!(&output.tables.config, &tables.config);
        prop_assert_eq!(&output.tables.vteps, &tables.vteps);
        prop_assert_eq!(&output.tables.routes, &tables.routes);
        judge(&packet, &output)
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Every packet is counted once, under the program that met it, with its length.
fn check_one_counter(
    program: Program,
    packet: &[u8],
    output: &Output,
) -> Result<(), TestCaseError> {
    let moved: Vec<_> = output.counted.iter().collect();
    prop_assert_eq!(moved.len(), 1, "counters moved: {:?}", moved);
    let (&place, counter) = moved[0];
    let name = counter_name(place);
    prop_assert!(
        name.starts_with(program.label()),
        "{name} is not of {program:?}"
    );
    prop_assert_eq!(counter.packets, 1, "{}", &name);
    prop_assert_eq!(counter.bytes, packet.len() as u64, "{}", name);
    Ok(())
}

fn has_passed(packet: &[u8], output: &Output) -> Result<(), TestCaseError> {
    prop_assert_eq!(output.verdict, NEXT);
    prop_assert_eq!(&output.packet[..], packet);
    Ok(())
}

#[test]
fn from_uplink_changes_nothing() {
    let ip = from_pod_b();
    let outer = Outer::from_node_b();
    let good = [datagram(&ip, 20), segment(&ip, 100), echo(&ip, 0)];
    let good = good.map(|inner| outer.over(&inner)).into();
    for_all(Program::FromUplink, good, has_passed);
}

#[test]
fn to_overlay_changes_nothing_or_adds_the_outer_headers() {
    let ip = to_pod_b();
    let good = [datagram(&ip, 20), segment(&ip, 100), echo(&ip, 0)].map(|inner| leaving(&inner));
    let fast = |place| counter_index(Program::ToOverlay, place);
    for_all(Program::ToOverlay, good.into(), |packet, output| {
        let counted = output.counted.contains_key(&fast(twill_abi::Reason::Fast));
        prop_assert_eq!(counted, output.verdict == REDIRECT);
        if output.verdict != REDIRECT {
            return has_passed(packet, output);
        }
        // Behind the outer headers and the inner Ethernet header all is as it was; in front
        // of it is what the builder makes of the one VTEP that it went to.
        prop_assert_eq!(output.packet.len(), packet.len() + OVERHEAD);
        prop_assert_eq!(
            &output.packet[OVERHEAD + Ethernet::LENGTH..],
            &packet[Ethernet::LENGTH..]
        );
        let vteps: Vec<_> = output.counted_vteps.keys().copied().collect();
        prop_assert_eq!(vteps.len(), 1);
        let state = output.tables.states[vteps[0] as usize];
        let vtep = output.tables.vteps[vteps[0] as usize];
        let mac = |word: u64| <[u8; 6]>::try_from(&word.to_ne_bytes()[..6]).expect("six bytes");
        let mut outer = Outer::to_node_b();
        outer.ethernet = Ethernet::ipv4(mac(state.source_mac), mac(state.nexthop_mac));
        outer.ip.destination = std::net::Ipv4Addr::from(vtep.underlay.last_word().to_bytes());
        outer.ip.tos = super::to_overlay::outer_tos(packet[15]);
        outer.inner = Ethernet::ipv4(outer.inner.source, vtep.mac);
        let wanted = numbered_as(&output.packet, outer.over(&packet[Ethernet::LENGTH..]));
        prop_assert_eq!(&output.packet, &wanted);
        Ok(())
    });
}
