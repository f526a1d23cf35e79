//! An etcd that lost its data while the agents were away: peers that it does not know yet stay,
//! and everybody gets the subnet of before.

use anyhow::{Context as _, Result, ensure};
use twill_agent::files::last_store::LastStore;
use twill_testbed::traffic::{EchoServer, Load, ping};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B};
use twill_tests::required;

use super::boot::wait_stand_in;
use super::lab::{Lab, PATIENCE, USUAL};
use super::member::Member;
use super::nodes::has_route;

#[test]
fn nobody_is_lost_with_the_data_of_an_etcd_that_is_another_cluster() -> Result<()> {
    emptied("another", true)
}

/// Members with the addresses and the token of before are the cluster of before, by its id.
#[test]
fn nobody_is_lost_with_the_data_of_an_etcd_that_is_the_same_cluster() -> Result<()> {
    emptied("twill", false)
}

/// Where the agent notes which etcd its peers are from.
fn note(member: &mut Member) -> Result<LastStore> {
    let agent = member.agent()?;
    Ok(LastStore::new(&agent.run_dir().join(agent.instance())))
}

/// Whether the agent has noted how far etcd has come.
fn is_noted(lab: &Lab, note: &LastStore) -> bool {
    let revision = lab.etcd.revision().ok();
    let noted = note.read().map(|noted| noted.position);
    noted.zip(revision).is_some_and(|(noted, revision)| {
        let end = format!("@{revision}");
        noted.as_str().ends_with(&end)
    })
}

fn emptied(token: &str, another: bool) -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(1, USUAL)?;
    let mut a = Member::of_twill(&lab, "a", NODE_A)?;
    let mut b = Member::of_twill(&lab, "b", NODE_B)?;
    a.wait_route(&b, true)?;
    b.wait_route(&a, true)?;
    let keys = lab.etcd.leases()?;
    let (note, subnet_b) = (note(&mut a)?, b.subnet()?);
    wait_until("the etcd of now is noted", PATIENCE, || {
        is_noted(&lab, &note)
    })?;

    let _echo = EchoServer::start(b.pod()?.namespace())?;
    let load = Load::start(a.pod()?.namespace(), b.pod()?.address())?;
    a.agent()?.kill()?;
    b.agent()?.kill()?;
    ensure!(
        lab.etcd.start_anew(token)? == another,
        "which cluster is it"
    );

    // Without its network config it is as good as away.
    a.agent()?.start_again()?;
    ensure!(wait_stand_in(a.agent()?)? == a.env()?, "another subnet");
    ensure!(has_route(&a.node, &subnet_b), "the peer is gone");
    lab.etcd.configure(USUAL)?;
    for start in ["first", "second"] {
        let env = a.agent()?.wait_ready_for(PATIENCE)?;
        ensure!(env == a.env()?, "another subnet after the {start} start");
        ensure!(
            has_route(&a.node, &subnet_b),
            "the peer is gone after the {start} start"
        );
        a.agent()?.stop()?;
        a.agent()?.start_again()?;
    }
    a.agent()?.wait_ready_for(PATIENCE)?;
    b.agent()?.start_again()?;
    let env = b.agent()?.wait_ready_for(PATIENCE)?;
    ensure!(env == b.env()?, "another subnet");
    assert_eq!(lab.etcd.leases()?, keys);
    load.report().check()?;

    // From now on this etcd's word counts.
    wait_until("the etcd of now is noted", PATIENCE, || {
        is_noted(&lab, &note)
    })?;
    ping(a.pod()?.namespace(), b.pod()?.address(), 100)?;
    a.agent()?.stop()?;
    b.agent()?.kill()?;
    lab.delete(&b.key()?)?;
    a.agent()?.start_again()?;
    a.agent()?.wait_ready_for(PATIENCE)?;
    a.wait_route(&b, false)
        .with_context(|| format!("{:?}", note.read()))
}
