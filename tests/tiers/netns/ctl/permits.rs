//! What `twillctl permits` tells and ends.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use twill_abi::{FlowTuple, Permit};
use twill_testbed::agent::Agent;
use twill_testbed::pod::Pod;
use twill_testbed::traffic::EchoServer;
use twill_testbed::traffic::echo::ECHO_PORT;
use twill_testbed::wait::wait_until;
use twill_testbed::world::NODE_B;
use twill_tests::required;

use super::{
    SERVICE, SOON, Talk, address, agent, list, packets, pair, pods, until_fast, wait_attached,
};

#[test]
fn a_services_nat_is_shown_and_a_flush_makes_it_slow_once() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = pair()?;
    cluster.explained((|| {
        wait_attached(&cluster)?;
        let (a, b) = pods(&cluster);
        let agent = agent(&cluster);
        let node = cluster.members[0].node.namespace();
        let to = address(b, ECHO_PORT).to_string();
        node.run(&[
            "nft",
            &format!(
                "add table ip services; \
                 add chain ip services pre {{ type nat hook prerouting priority -100; }}; \
                 add rule ip services pre ip daddr {SERVICE} tcp dport 80 dnat to {to}"
            ),
        ])?;
        let _echo = EchoServer::start(b.namespace())?;
        assert_eq!(list(agent, &[])?.len(), 0, "nothing yet");
        let mut talk = Talk::open(a.namespace(), (SERVICE, 80).into())?;
        until_fast(&mut talk, agent)?;

        let live = list(agent, &["--state", "live"])?;
        assert_eq!(live.len(), 1, "{live:?}");
        let permit = &live[0];
        assert_eq!(permit["remote"], format!("{SERVICE}:80"));
        assert_eq!(permit["wire_remote"], to);
        assert_eq!(permit["nat"], true);
        assert_eq!(permit["protocol"], "tcp");
        assert_eq!(permit["kind"], "permit");
        assert_eq!(permit["vtep"], NODE_B.to_string());
        assert_eq!(permit["stale_vtep"], false);
        let text = agent.ctl_text(&["permits", "list", "--peer", &b.address().to_string()])?;
        assert!(text.contains(&format!("{SERVICE}:80 → {to}")), "{text}");

        let pod = a.address().to_string();
        let (from, to) = (&permit["local"], permit["remote"].as_str());
        let words = [
            "explain",
            from.as_str().unwrap_or_default(),
            to.unwrap_or_default(),
        ];
        assert_eq!(agent.ctl(&words)?["fast"], true);
        agent.ctl(&["mode", "kernel"])?;
        let text = agent.ctl_text(&words)?;
        assert!(
            text.contains("slow: the mode is kernel, by the operator"),
            "{text}"
        );
        agent.ctl(&["mode", "auto"])?;
        until_fast(&mut talk, agent)?;

        let nobody = agent.ctl(&["permits", "flush", "--pod", "10.244.99.99"])?;
        assert_eq!(nobody["ended"], 0);
        assert_eq!(list(agent, &["--pod", &pod])?.len(), 1);
        let slow = packets(agent, "from_pod", "no_permit")?;
        // The answer's ACK may come late, and after the flush it would ask netfilter as any packet.
        settled(b)?;
        let ended = agent.ctl(&["permits", "flush", "--pod", &pod, "--peer", "10.96.0.1"])?;
        assert_eq!(ended["ended"], 1);
        assert_eq!(list(agent, &[])?.len(), 0);
        talk.say()?;
        assert!(packets(agent, "from_pod", "no_permit")? > slow, "slow once");
        until_fast(&mut talk, agent)?;
        assert_eq!(list(agent, &["--state", "live"])?.len(), 1);
        Ok(())
    })())
}

/// Waits until everything that a pod has sent by TCP was acknowledged.
fn settled(pod: &Pod) -> Result<()> {
    wait_until("everything is acknowledged", SOON, || {
        let sockets = pod.namespace().run(&["ss", "-Htn", "state", "established"]);
        // Receive queue, then send queue: what is not acknowledged yet.
        let is_empty = |line: &str| line.split_whitespace().nth(1) == Some("0");
        sockets.is_ok_and(|text| !text.is_empty() && text.lines().all(is_empty))
    })
}

fn pinned(agent: &Agent) -> Result<HashMap<MapData, FlowTuple, Permit>> {
    let data = MapData::from_pin(agent.pins().join("v1/permits_pod"))?;
    Ok(Map::from_map_data(data)?.try_into()?)
}

#[test]
fn what_no_program_wrote_is_shown_as_garbage_and_can_be_flushed() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = pair()?;
    cluster.explained((|| {
        wait_attached(&cluster)?;
        let (a, b) = pods(&cluster);
        let agent = agent(&cluster);
        let _echo = EchoServer::start(b.namespace())?;
        let mut talk = Talk::open(a.namespace(), address(b, ECHO_PORT))?;
        until_fast(&mut talk, agent)?;

        let mut map = pinned(agent)?;
        let key = map.keys().next().context("no permit")??;
        let real = map.get(&key, 0)?;
        let strange = FlowTuple {
            protocol: 250,
            reserved: [1, 2, 3],
            ..key
        };
        map.insert(
            strange,
            Permit {
                state: 99,
                vtep: u32::MAX,
                ifindex: u32::MAX,
                ..real
            },
            0,
        )?;
        let garbage = list(agent, &["--state", "garbage"])?;
        assert_eq!(garbage.len(), 1, "{garbage:?}");
        assert_eq!(garbage[0]["why"], "its tuple is not its key");
        assert_eq!(garbage[0]["protocol"], "250");
        let text = agent.ctl_text(&["permits", "list"])?;
        assert!(text.contains("garbage: its tuple is not its key"), "{text}");
        assert_eq!(list(agent, &["--state", "live"])?.len(), 1);
        settled(b)?;
        assert_eq!(agent.ctl(&["permits", "flush", "--all"])?["ended"], 2);
        assert_eq!(list(agent, &[])?.len(), 0);
        Ok(())
    })())
}

#[test]
fn a_flush_needs_to_be_told_what() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = pair()?;
    let agent = agent(&cluster);
    for words in [
        vec!["permits", "flush"],
        vec!["permits", "flush", "--all", "--pod", "10.244.1.2"],
        vec!["permits", "flush", "--pod", "10.244.1"],
        vec!["permits", "list", "--state", "dead"],
    ] {
        let error = format!("{:#}", agent.ctl(&words).expect_err("wrong usage"));
        assert!(error.contains("exit status: 2"), "{words:?}: {error}");
    }
    Ok(())
}

#[test]
fn a_flow_is_watched_as_it_comes_and_goes() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = pair()?;
    cluster.explained((|| {
        wait_attached(&cluster)?;
        let (a, b) = pods(&cluster);
        let agent = agent(&cluster);
        let _echo = EchoServer::start(b.namespace())?;
        let told = std::thread::scope(|scope| {
            // The tool goes on until it is interrupted: `timeout` does that.
            let watching = scope.spawn(|| agent.watch_permits(Duration::from_secs(6)));
            std::thread::sleep(Duration::from_secs(1));
            let mut talk = Talk::open(a.namespace(), address(b, ECHO_PORT))?;
            until_fast(&mut talk, agent)?;
            std::thread::sleep(Duration::from_secs(1));
            agent.ctl(&["permits", "flush", "--all"])?;
            match watching.join() {
                Ok(told) => told,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        let of = |change: &str| told.iter().filter(|line| line["change"] == change).count();
        assert_eq!((of("new"), of("gone")), (1, 1), "{told:?}");
        Ok(())
    })())
}
