//! Random flows both ways between two nodes, fast on both: what arrives is what was sent, two
//! routers further, with the flow's NAT, and its checksums are those of a full computation.

use std::net::Ipv4Addr;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use proptest::{prop_assert_eq, sample};
use twill_abi::{FlowTuple, Permit, Program, Vtep};
use twill_testbed::packet::Tcp;

use super::flow::{
    Inner, PROTOCOLS, Side, holding, into_pod, out_of_pod, permit, permitting, tuple,
};
use crate::check::REDIRECT;
use crate::lab::{Lab, cases};
use crate::sk_buff::SkBuff;
use crate::tables::Tables;
use crate::world::{NODE_A, NODE_B, VTEP_B, VTEP_MAC_A, VTEP_MAC_B};

const CASES: u32 = 1_000;

/// A flow, and one packet of it each way.
#[derive(Clone, Debug)]
struct Talk {
    protocol: u8,
    client: Side,
    server: Side,
    /// What the client sends to, which a NAT on its node makes the server.
    service: Option<Side>,
    payload: Vec<u8>,
    tos: u8,
    ttl: u8,
    id: u16,
    flags: u8,
    checked: bool,
}

fn talks() -> impl Strategy<Value = Talk> {
    let port = || 1..=u16::MAX;
    let service = prop_oneof![
        Just(None),
        (any::<u32>(), port()).prop_map(|(bits, port)| {
            // Neither of the two pods' own nodes.
            let [_, a, b, c] = bits.to_be_bytes();
            Some((Ipv4Addr::new(172, a, b, c), port))
        }),
    ];
    let ends = (any::<u8>(), port(), any::<u8>(), port(), service);
    let header = (
        any::<u8>(),
        3_u8..,
        any::<u16>(),
        any::<u8>(),
        any::<bool>(),
    );
    let payload = vec(any::<u8>(), 0..1_400);
    let protocol = sample::select(PROTOCOLS.to_vec());
    (protocol, ends, header, payload).prop_map(|(protocol, ends, header, payload)| {
        let (client, client_port, server, server_port, service) = ends;
        let (tos, ttl, id, flags, checked) = header;
        Talk {
            protocol,
            client: (Ipv4Addr::new(10, 244, 1, client), client_port),
            server: (Ipv4Addr::new(10, 244, 2, server), server_port),
            service,
            payload,
            tos,
            ttl,
            id,
            flags: flags & !(Tcp::SYN | Tcp::FIN | Tcp::RST),
            checked,
        }
    })
}

impl Talk {
    fn inner(&self, inner: Inner) -> Inner {
        inner.flagged(self.flags).with(|inner| {
            inner.payload.clone_from(&self.payload);
            (inner.ip.tos, inner.ip.ttl, inner.ip.id) = (self.tos, self.ttl, self.id);
            inner.udp.checksum = if self.checked { None } else { Some(0) };
        })
    }

    /// The flow as the client sees it, as the wire has it, and as the server sees it.
    fn tuples(&self) -> [FlowTuple; 3] {
        let seen = self.service.unwrap_or(self.server);
        [
            tuple(self.protocol, self.client, seen),
            tuple(self.protocol, self.client, self.server),
            tuple(self.protocol, self.server, self.client),
        ]
    }
}

/// Node B's maps: node A is its peer, in the place where A has B.
fn of_node_b(lab: &Lab) -> Tables {
    let mut tables = permitting(lab);
    tables.config.underlay = NODE_B.into();
    tables.config.own_subnet = Ipv4Addr::new(10, 244, 2, 0).into();
    tables.config.vtep_mac = VTEP_MAC_B;
    let place = VTEP_B as usize;
    tables.vteps[place] = Vtep {
        underlay: NODE_A.into(),
        mac: VTEP_MAC_A,
        ..tables.vteps[place]
    };
    let state = &mut tables.states[place];
    std::mem::swap(&mut state.source_mac, &mut state.nexthop_mac);
    let subnet_b = Ipv4Addr::new(10, 244, 2, 0).into();
    for (network, place) in &mut tables.routes {
        if *place == VTEP_B && *network == subnet_b {
            *network = Ipv4Addr::new(10, 244, 1, 0).into();
        }
    }
    tables.sources.retain(|(_, place)| *place != VTEP_B);
    tables.sources.push((NODE_A.into(), VTEP_B));
    tables
}

/// Sends a frame through both nodes.
fn across(
    lab: &Lab,
    sender: &Tables,
    receiver: &Tables,
    frame: &[u8],
) -> Result<Vec<u8>, TestCaseError> {
    let run = |program, tables, frame: &[u8]| {
        let output = lab.run(program, tables, frame, SkBuff::default());
        let output = output.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(
            output.verdict,
            REDIRECT,
            "{:?} {:?}",
            program,
            output.counted
        );
        Ok(output.packet)
    };
    let wire = run(Program::FromPod, sender, frame)?;
    run(Program::FromUplink, receiver, &wire)
}

#[test]
fn what_arrives_is_what_was_sent() {
    let Some(lab) = Lab::open() else { return };
    let config = Config {
        cases: cases(CASES),
        failure_persistence: None,
        ..Config::default()
    };
    let peer = of_node_b(&lab);
    let result = TestRunner::new(config).run(&talks(), |talk| {
        let [seen, wire, answered] = talk.tuples();
        let at_client = holding(&lab, &[permit(&lab, seen, wire)]);
        let mut at_server = peer.clone();
        let held = Permit {
            vtep_generation: peer.vteps[VTEP_B as usize].generation,
            ..permit(&lab, answered, answered)
        };
        at_server.flows.file(held);

        let two_further = |inner: Inner| inner.routed().routed();
        let sent = talk.inner(Inner::sent(&seen));
        let wanted = two_further(talk.inner(Inner::received(&answered)));
        let found = across(&lab, &at_client, &at_server, &out_of_pod(&sent.bytes()))?;
        prop_assert_eq!(found, into_pod(&wanted.bytes()));

        let sent = talk.inner(Inner::sent(&answered));
        let wanted = two_further(talk.inner(Inner::received(&seen)));
        let found = across(&lab, &at_server, &at_client, &out_of_pod(&sent.bytes()))?;
        prop_assert_eq!(found, into_pod(&wanted.bytes()));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
