//! Whatever the maps hold: a program passes a packet as it came, or redirects it.

use aya::maps::Array;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq, sample};
use twill_abi::maps::{
    CONFIG, LOCAL_PODS, MAPPINGS, PENDING, PERMITS_POD, PERMITS_WIRE, VTEP_STATE, VTEPS,
};
use twill_abi::{Address, FastPath, FlowTuple, Mapping, Pending, Program};

use super::direct_out::known;
use super::flow::{
    Inner, PROTOCOLS, holding, into_pod, out_of_pod, pending, permit, place, plain, to_service,
};
use crate::check::{NEXT, REDIRECT};
use crate::flow_tables::{FAR, open};
use crate::lab::{Lab, cases, monotonic_ns};
use crate::packets::{Outer, leaving};
use crate::sk_buff::SkBuff;
use crate::tables::{MARK_BIT, Tables};
use crate::world::{POD_A1, VTEP_B};

const CASES: u32 = 4_000;
/// The maps that are spoiled.
const SPOILED: usize = 8;

/// Which map is spoiled from where, and by what.
#[derive(Clone, Debug)]
struct Damage {
    map: usize,
    offset: usize,
    bytes: Vec<u8>,
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let bytes = vec(any::<u8>(), 1..200);
    let damage = (0..SPOILED, 0..184_usize, bytes);
    let damage = damage.prop_map(|(map, offset, bytes)| Damage { map, offset, bytes });
    vec(damage, 1..5)
}

impl Damage {
    fn spoil<const N: usize>(&self, mut value: [u8; N]) -> [u8; N] {
        let from = self.offset % N;
        let until = N.min(from + self.bytes.len());
        value[from..until].copy_from_slice(&self.bytes[..until - from]);
        value
    }

    /// Spoils one place of an array.
    fn array<const N: usize>(&self, lab: &Lab, name: &str, place: u32) {
        let mut ebpf = lab.ebpf();
        let map = ebpf.map_mut(name).expect("a map");
        let mut map: Array<_, [u8; N]> = Array::try_from(map).expect("an array");
        let value = map.get(&place, 0).expect("read");
        map.set(place, self.spoil(value), 0).expect("write");
    }

    /// Spoils every entry of a hash.
    fn hash<K: aya::Pod, const N: usize>(&self, lab: &Lab, name: &str) {
        let mut ebpf = lab.ebpf();
        let mut map = open::<K, [u8; N]>(&mut ebpf, name);
        let entries: Vec<_> = map.iter().collect::<Result<_, _>>().expect("read");
        for (key, value) in entries {
            map.insert(key, self.spoil(value), 0).expect("write");
        }
    }

    fn apply(&self, lab: &Lab) {
        match self.map {
            0 => self.array::<168>(lab, CONFIG.name, 0),
            1 => self.array::<64>(lab, VTEPS.name, VTEP_B),
            2 => self.array::<64>(lab, VTEP_STATE.name, VTEP_B),
            3 => self.hash::<FlowTuple, 184>(lab, PERMITS_POD.name),
            4 => self.hash::<FlowTuple, 56>(lab, PERMITS_WIRE.name),
            5 => self.hash::<FlowTuple, 56>(lab, MAPPINGS.name),
            6 => self.hash::<u32, 128>(lab, PENDING.name),
            _ => self.hash::<Address, 24>(lab, LOCAL_PODS.name),
        }
    }
}

/// Maps by which all of the packets below are fast or learned from.
fn good(lab: &Lab, fast_path: FastPath, direct: bool) -> Tables {
    let mut tables = holding(lab, &[]);
    tables.config.fast_path = fast_path as u32;
    let flows = &mut tables.flows;
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        if direct {
            flows.file(known(lab, wire));
        } else {
            flows.file(permit(lab, pod, wire));
        }
        flows
            .mappings
            .set(pod, Mapping::new(wire, lab.veth, monotonic_ns()));
        let note = pending(lab, pod, monotonic_ns());
        flows.pending.set(0, note);
        let begun = Pending {
            wire,
            mapped_ns: monotonic_ns(),
            out_until_ns: FAR,
            ..note
        };
        flows.pending.set(pod.hash(tables.config.flow_seed), begun);
    }
    let seen = place(lab, monotonic_ns());
    flows.local_pods.set(POD_A1.into(), seen);
    tables
}

fn packets() -> Vec<(Program, Vec<u8>)> {
    let mut packets = Vec::new();
    for protocol in PROTOCOLS {
        for flags in [0x10, 0x02, 0x11] {
            let (pod, wire) = (to_service(protocol), plain(protocol));
            let bytes = |inner: Inner| inner.flagged(flags).bytes();
            let (sent, received) = (bytes(Inner::sent(&wire)), bytes(Inner::received(&wire)));
            packets.extend([
                (Program::FromPod, out_of_pod(&bytes(Inner::sent(&pod)))),
                (Program::FromPod, out_of_pod(&sent)),
                (Program::ToOverlay, leaving(&sent)),
                (Program::FromUplink, Outer::from_node_b().over(&received)),
                (Program::ToPod, into_pod(&bytes(Inner::received(&pod)))),
                (Program::ToUplink, Outer::to_node_b().over(&sent)),
            ]);
        }
    }
    packets
}

#[test]
fn no_content_of_the_maps_breaks_a_packet() {
    let Some(lab) = Lab::open() else { return };
    let config = Config {
        cases: cases(CASES),
        failure_persistence: None,
        ..Config::default()
    };
    let fast_paths = [FastPath::Permit, FastPath::Direct];
    let inputs = (
        sample::select(packets()),
        sample::select(fast_paths.to_vec()),
        any::<bool>(),
        damages(),
    );
    let result = TestRunner::new(config).run(&inputs, |(packet, fast_path, direct, damages)| {
        let (program, packet) = packet;
        lab.prepare(&good(&lab, fast_path, direct));
        for damage in &damages {
            damage.apply(&lab);
        }
        let context = SkBuff {
            mark: MARK_BIT,
            ..SkBuff::default()
        };
        let output = lab.give(program, &packet, context);
        let output = output.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert!(
            [NEXT, REDIRECT].contains(&output.verdict),
            "{}",
            output.verdict
        );
        if output.verdict == NEXT {
            prop_assert_eq!(output.packet, packet);
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
