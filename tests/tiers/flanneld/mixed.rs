//! Nodes of a real flanneld and of Twill on one etcd, and hosts that go from one to the other.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use twill_testbed::traffic::{EchoServer, Load, ping};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B, NODE_C, VTEP_MAC_A};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};
use super::member::{Kind, Member};
use super::nodes::{device_mac, register, wait_route, written};

const NODE_D: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
/// Waits until those that run know each other, and no others, and their pods talk.
fn settle(members: &[Member]) -> Result<()> {
    let (there, gone): (Vec<&Member>, Vec<_>) = (members.iter())
        .filter(|member| member.has_env())
        .partition(|member| member.is_running());
    for member in &there {
        for other in there
            .iter()
            .filter(|other| other.node.address() != member.node.address())
        {
            member.wait_route(other, true)?;
        }
        for other in &gone {
            member.wait_route(other, false)?;
        }
    }
    for from in &there {
        for to in there
            .iter()
            .filter(|to| to.node.address() != from.node.address())
        {
            let (namespace, address) = (from.pod()?.namespace(), to.pod()?.address());
            ping(namespace, address, 1000)
                .with_context(|| format!("from {} to {}", from.node.label(), to.node.label()))?;
        }
    }
    Ok(())
}

#[test]
fn nodes_of_a_real_flanneld_and_of_twill_come_and_go() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let mut members = [("a", NODE_A), ("b", NODE_B), ("c", NODE_C), ("d", NODE_D)]
        .into_iter()
        .map(|(label, address)| Member::new(&lab, label, address))
        .collect::<Result<Vec<_>>>()?;
    // Each kind comes to an empty network's first node and to both kinds.
    let kinds = [Kind::Twill, Kind::Flanneld, Kind::Flanneld, Kind::Twill];
    for n in 0..members.len() {
        members[n].start(kinds[n])?;
        settle(&members)?;
    }
    // Each kind sees each kind go and come back, alone and two at a time.
    for away in [&[1_usize][..], &[0], &[2, 3], &[0, 1]] {
        for &n in away {
            members[n].die(&lab)?;
        }
        settle(&members)?;
        for &n in away.iter().rev() {
            members[n].start(kinds[n])?;
        }
        settle(&members)?;
    }
    // A lease that ends by itself ends for both.
    let stranger = written(Ipv4Addr::new(192, 0, 2, 99), VTEP_MAC_A);
    register(&lab, "10.244.254.0-24", &stranger, 5)?;
    for there in [true, false] {
        for member in &members {
            wait_route(&member.node, "10.244.254.0/24", there)?;
        }
    }
    settle(&members)
}

#[test]
fn a_host_goes_from_a_real_flanneld_to_twill_and_back() -> Result<()> {
    moves([Kind::Flanneld, Kind::Twill, Kind::Flanneld])
}

#[test]
fn a_host_goes_from_twill_to_a_real_flanneld_and_back() -> Result<()> {
    moves([Kind::Twill, Kind::Flanneld, Kind::Twill])
}

/// One node is looked after by each of these in turn, its peer by a flanneld; all that
/// time its pod talks to the peer's.
fn moves(kinds: [Kind; 3]) -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let mut members = [
        Member::new(&lab, "a", NODE_A)?,
        Member::new(&lab, "c", NODE_C)?,
    ];
    members[1].start(Kind::Flanneld)?;
    let [first, others @ ..] = kinds;
    members[0].start(first)?;
    settle(&members)?;
    let (keys, mac) = (lab.etcd.leases()?, device_mac(&members[0].node)?);
    let tables = members[0].tables()?;

    let _echo = EchoServer::start(members[1].pod()?.namespace())?;
    let load = Load::start(members[0].pod()?.namespace(), members[1].pod()?.address())?;
    for kind in others {
        members[0].hand_over()?;
        assert_eq!(members[0].tables()?, tables, "before {kind:?}");
        members[0].start(kind)?;
        settle(&members)?;
        // The same subnet under the same key, with the same value: the node is the one it was.
        assert_eq!(lab.etcd.leases()?, keys, "with {kind:?}");
        assert_eq!(device_mac(&members[0].node)?, mac, "with {kind:?}");
        wait_until("the tables are as before", PATIENCE, || {
            members[0].tables().is_ok_and(|now| now == tables)
        })
        .with_context(|| format!("{kind:?}: {:?} instead of {tables:?}", members[0].tables()))?;
    }
    load.report().check()
}
