//! The one way that a case is run and judged.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use twill_abi::{Counter, Program, Reason, VtepCounter, VtepState, counter_index};
use twill_testbed::packet::side_by_side;

use super::flow_tables::FlowTables;
use super::lab::{Lab, Output, counter_name};
use super::packets::{Outer, numbered_as};
use super::sk_buff::SkBuff;
use super::tables::{MARK_BIT, Tables};
use super::world::VTEP_B;

/// `TC_ACT_UNSPEC`, which is `TCX_NEXT`: the next program or the stack goes on.
pub(crate) const NEXT: i32 = -1;
/// `TC_ACT_REDIRECT`.
pub(crate) const REDIRECT: i32 = 7;
/// How long a next hop may be used.
const NEXT_HOP_NS: u64 = 1_000_000;

/// One packet, the maps it meets, and all that must come of it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// What is so, for people.
    pub(crate) name: String,
    /// The program under test.
    pub(crate) program: Program,
    /// The packet.
    pub(crate) packet: Vec<u8>,
    /// Its context.
    pub(crate) context: SkBuff,
    /// The maps before.
    pub(crate) tables: Tables,
    /// What must come of it; what is not named here must not move.
    pub(crate) expected: Expected,
}

/// What must come of a case.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// [`NEXT`] or [`REDIRECT`].
    pub(crate) verdict: i32,
    /// The packet afterwards.
    pub(crate) packet: Vec<u8>,
    /// `skb->mark` afterwards.
    pub(crate) mark: u32,
    /// The one counter of the program that moves, by one packet and all of its bytes.
    pub(crate) reason: Option<Reason>,
    /// Counters of the program that move beside it, by one packet and so many bytes.
    pub(crate) beside: Vec<(Reason, u64)>,
    /// What is remembered of flows and pods afterwards, where that changes; times by
    /// [`super::flow_tables::at`].
    pub(crate) flows: Option<FlowTables>,
    /// The one VTEP counter that moves.
    pub(crate) vtep: Option<(u32, VtepCounter)>,
    /// The one next hop that is learned, and its VTEP's place.
    pub(crate) learned: Option<(u32, NextHop)>,
    /// The VTEP whose state the test judges itself.
    pub(crate) unjudged: Option<u32>,
}

/// What the programs learn of a next hop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NextHop {
    /// MAC address of the next hop.
    pub(crate) mac: [u8; 6],
    /// MAC address of the interface towards it.
    pub(crate) source_mac: [u8; 6],
    /// The interface.
    pub(crate) ifindex: u32,
    /// Largest outer IP packet, bytes.
    pub(crate) path_mtu: u32,
}

impl Case {
    /// The packet is handed on as it came, for one reason.
    pub(crate) fn passed(
        name: impl Into<String>,
        program: Program,
        tables: Tables,
        packet: Vec<u8>,
        reason: Reason,
    ) -> Self {
        // Bits of other owners, and ours, must all survive.
        let context = SkBuff {
            mark: 0xa5a5_0000 | MARK_BIT | 1,
            cb: [1, 2, 3, 4, 5],
            ..SkBuff::default()
        };
        Self {
            name: name.into(),
            program,
            context,
            tables,
            expected: Expected {
                verdict: NEXT,
                packet: packet.clone(),
                mark: mark_after(program, reason, context.mark),
                reason: Some(reason),
                beside: Vec::new(),
                flows: None,
                vtep: None,
                learned: None,
                unjudged: None,
            },
            packet,
        }
    }

    /// `to_overlay` encapsulates the inner IPv4 packet to node B behind the `outer` headers.
    pub(crate) fn encapped(
        name: impl Into<String>,
        lab: &Lab,
        inner: &[u8],
        outer: &Outer,
    ) -> Self {
        let tables = lab.tables();
        let packet = super::packets::leaving(inner);
        let mut case = Self::passed(name, Program::ToOverlay, tables, packet, Reason::Fast);
        case.expected.verdict = REDIRECT;
        case.expected.packet = outer.over(inner);
        case.expected.mark = 0;
        case.expected.learned = Some((VTEP_B, NextHop::of_node_b(lab)));
        case.counted_to(VTEP_B)
    }

    /// `from_uplink` trusts the frame.
    pub(crate) fn trusted(name: impl Into<String>, lab: &Lab, frame: Vec<u8>) -> Self {
        let length = frame.len() as u64;
        let program = Program::FromUplink;
        let mut case = Self::passed(name, program, lab.tables(), frame, Reason::Trusted);
        case.expected.vtep = Some((VTEP_B, from_vtep(length)));
        case
    }

    /// With a packet counted as encapsulated to this VTEP.
    pub(crate) fn counted_to(mut self, place: u32) -> Self {
        let counter = to_vtep(self.packet.len() as u64);
        self.expected.vtep = Some((place, counter));
        self
    }

    /// With other maps.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Tables)) -> Self {
        change(&mut self.tables);
        self
    }

    /// With another context; the mark is expected to go the way it went.
    pub(crate) fn in_context(mut self, context: SkBuff) -> Self {
        if self.expected.verdict == NEXT {
            let reason = self.expected.reason.unwrap_or(Reason::ModeKernel);
            self.expected.mark = mark_after(self.program, reason, context.mark);
        }
        self.context = context;
        self
    }

    /// With this change to what is remembered of flows and pods; the maps before are final.
    pub(crate) fn then(mut self, change: impl FnOnce(&mut FlowTables)) -> Self {
        let before = &self.tables.flows;
        change(self.expected.flows.get_or_insert_with(|| before.clone()));
        self
    }

    /// With other expectations.
    pub(crate) fn expecting(mut self, change: impl FnOnce(&mut Expected)) -> Self {
        change(&mut self.expected);
        self
    }
}

impl NextHop {
    /// Node B, on the uplink's network.
    pub(crate) fn of_node_b(lab: &Lab) -> Self {
        Self {
            mac: super::world::UPLINK_MAC_B,
            source_mac: super::world::UPLINK_MAC_A,
            ifindex: lab.uplink,
            path_mtu: super::world::UPLINK_MTU,
        }
    }
}

/// The mark of a packet that is passed on: our own bit goes, so that it does not leave the node
/// nor come from a pod, and no other.
fn mark_after(program: Program, reason: Reason, mark: u32) -> u32 {
    match (program, reason) {
        (_, Reason::ModeKernel) => mark,
        (Program::ToOverlay | Program::FromPod | Program::ToPod, _) => mark & !MARK_BIT,
        _ => mark,
    }
}

/// A packet of `length` bytes that BPF encapsulated, Ethernet header included.
pub(crate) fn to_vtep(length: u64) -> VtepCounter {
    VtepCounter {
        encap_packets: 1,
        encap_bytes: length,
        uplink_packets: 0,
        uplink_bytes: 0,
    }
}

/// A trusted packet of `length` bytes, Ethernet header included.
pub(crate) fn from_vtep(length: u64) -> VtepCounter {
    VtepCounter {
        encap_packets: 0,
        encap_bytes: 0,
        uplink_packets: 1,
        uplink_bytes: length,
    }
}

/// Runs a case. All that is not expected must stand still: verdict, bytes, mark, control
/// block, every counter, every map.
pub(crate) fn check(lab: &Lab, case: &Case) -> Output {
    let output = case.run(lab);
    let faults = case.faults(&output);
    assert!(
        faults.is_empty(),
        "{name}\n{faults}\n{came}\n{wanted}",
        name = case.name,
        came = side_by_side("in", &case.packet, "out", &output.packet),
        wanted = side_by_side("expected", &case.wanted(&output), "out", &output.packet),
    );
    output
}

impl Case {
    /// Runs it, and tells whether all came as expected: for what hangs on the clock.
    pub(crate) fn comes_true(&self, lab: &Lab) -> bool {
        self.faults(&self.run(lab)).is_empty()
    }

    fn run(&self, lab: &Lab) -> Output {
        lab.run(self.program, &self.tables, &self.packet, self.context)
            .unwrap_or_else(|error| panic!("{}: the kernel does not run it: {error}", self.name))
    }

    /// The packet that is expected. What is encapsulated gets the identification that it was
    /// given, whatever that is, with the header checksum that belongs to it.
    fn wanted(&self, output: &Output) -> Vec<u8> {
        let numbers = matches!(self.program, Program::ToOverlay | Program::FromPod);
        if numbers && self.expected.verdict == REDIRECT {
            numbered_as(&output.packet, self.expected.packet.clone())
        } else {
            self.expected.packet.clone()
        }
    }

    fn faults(&self, output: &Output) -> String {
        let expected = &self.expected;
        let mut faults = Faults::default();
        faults.compare("verdict", &expected.verdict, &output.verdict);
        faults.compare("mark", &expected.mark, &output.context.mark);
        faults.compare("control block", &self.context.cb, &output.context.cb);
        if self.wanted(output) != output.packet {
            faults.add("the packet differs, see below");
        }

        let counter = Counter {
            packets: 1,
            bytes: self.packet.len() as u64,
        };
        let name = |(place, counter)| (counter_name(place), counter);
        let place = |reason| counter_index(self.program, reason);
        let wanted = expected.reason.map(|reason| (place(reason), counter));
        let beside = expected.beside.iter().map(|&(reason, bytes)| {
            let packets = 1;
            (place(reason), Counter { packets, bytes })
        });
        let wanted: BTreeMap<_, _> = wanted.into_iter().chain(beside).collect();
        let wanted: Vec<_> = wanted.into_iter().map(name).collect();
        let moved: Vec<_> = output.counted.clone().into_iter().map(name).collect();
        faults.compare("counters", &wanted, &moved);
        let wanted: Vec<_> = expected.vtep.into_iter().collect();
        let moved: Vec<_> = output.counted_vteps.clone().into_iter().collect();
        faults.compare("VTEP counters", &wanted, &moved);

        let mut tables = self.tables.clone();
        if let Some((place, next_hop)) = expected.learned {
            let found = output.tables.states[place as usize];
            let state = &mut tables.states[place as usize];
            let generation = self.tables.vteps[place as usize].generation;
            *state = next_hop.learned(state, generation, found.nexthop_until_ns);
            let (started, ended) = output.time_ns;
            let until = started + NEXT_HOP_NS..=ended + NEXT_HOP_NS;
            if !until.contains(&found.nexthop_until_ns) {
                let found = found.nexthop_until_ns;
                faults.add(&format!(
                    "the next hop lasts until {found}, expected {until:?}"
                ));
            }
        }
        let flows = expected.flows.as_ref().unwrap_or(&self.tables.flows);
        let flows = flows.settled(&output.tables.flows, output.time_ns);
        flows.differences(&output.tables.flows, |what, wanted, found| {
            faults.add(&format!(
                "{what}: expected {wanted}\n  {what}: found    {found}\n  the program ran within \
                 {:?}",
                output.time_ns
            ));
        });
        faults.compare("config", &tables.config, &output.tables.config);
        faults.compare("operator", &tables.operator, &output.tables.operator);
        faults.compare("overlay_routes", &tables.routes, &output.tables.routes);
        faults.compare("odd_routes", &tables.odd_routes, &output.tables.odd_routes);
        faults.compare("vtep_sources", &tables.sources, &output.tables.sources);
        faults.compare("vteps", &tables.vteps, &output.tables.vteps);
        for (place, (wanted, found)) in tables.states.iter().zip(&output.tables.states).enumerate()
        {
            if expected.unjudged.map(|place| place as usize) != Some(place) {
                faults.compare(&format!("vtep_state of {place}"), wanted, found);
            }
        }
        faults.0
    }
}

impl NextHop {
    fn learned(self, before: &VtepState, generation: u32, until_ns: u64) -> VtepState {
        VtepState {
            nexthop_until_ns: until_ns,
            nexthop_mac: mac_word(self.mac),
            source_mac: mac_word(self.source_mac),
            ifindex: self.ifindex,
            path_mtu: self.path_mtu,
            generation,
            ..*before
        }
    }

    /// A state that holds this next hop until `until_ns`.
    pub(crate) fn known(self, generation: u32, until_ns: u64) -> VtepState {
        self.learned(&super::tables::NO_STATE, generation, until_ns)
    }
}

/// A MAC address in the first six bytes in memory.
fn mac_word(mac: [u8; 6]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&mac);
    u64::from_ne_bytes(bytes)
}

#[derive(Default)]
struct Faults(String);

impl Faults {
    fn add(&mut self, fault: &str) {
        writeln!(self.0, "  {fault}").expect("a string takes everything");
    }

    fn compare<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, wanted: &T, found: &T) {
        if wanted != found {
            self.add(&format!(
                "{what}: expected {wanted:?}\n  {what}: found    {found:?}"
            ));
        }
    }
}
