//! One agent is killed in the middle of traffic, and nothing happens.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use twill_testbed::cluster::Cluster;
use twill_testbed::traffic::{EchoServer, Load};
use twill_testbed::wait::pass;

use crate::counted;
use crate::findings::{AgentKilled, Findings};
use crate::voice::Voice;

/// How long the node is without its agent.
const DEAD: Duration = Duration::from_secs(4);
/// How long traffic goes on after the agent's return.
const AFTER: Duration = Duration::from_secs(2);

pub(crate) fn kill_an_agent(
    voice: &Voice,
    cluster: &mut Cluster,
    findings: &mut Findings,
) -> Result<()> {
    voice.heading("Killing the agent of node b in the middle of traffic (kill -9)");
    let [_, victim, other, ..] = cluster.members.as_mut_slice() else {
        bail!("three nodes are needed");
    };
    let (Some(from), Some(to)) = (victim.pods.first(), other.pods.first()) else {
        bail!("a pod on each node is needed");
    };
    let _echo = EchoServer::start(to.namespace())?;
    let load = Load::start(from.namespace(), to.address())?;
    voice.built(format_args!(
        "from {} on node b to {} on node c: 1,000 datagrams/s, a TCP stream, a new connection \
         every 100 ms",
        from.address(),
        to.address()
    ));

    let before = counted::count(victim)?;
    victim.agent.kill()?;
    voice.built(format_args!(
        "agent killed; {} s without it",
        DEAD.as_secs()
    ));
    pass(DEAD)?;
    let after = counted::count(victim)?;
    victim.agent.start_again()?;
    victim.agent.wait_ready()?;
    voice.built("agent started again");
    pass(AFTER)?;

    let killed = AgentKilled {
        node: victim.node.label().to_owned(),
        by_bpf: after.by_bpf - before.by_bpf,
        traffic: load.report(),
    };
    let outcome = judge(voice, &killed);
    findings.agent_killed = Some(killed);
    outcome
}

fn judge(voice: &Voice, killed: &AgentKilled) -> Result<()> {
    let AgentKilled {
        by_bpf, traffic, ..
    } = killed;
    traffic.check().context("the agent was killed")?;
    if *by_bpf == 0 {
        bail!("BPF encapsulated nothing on node b while its agent was dead");
    }
    voice.proved(format_args!(
        "{} datagrams: none lost; {} MB of the stream: every byte in its place; {} new \
         connections: none failed, the slowest took {} ms",
        traffic.datagrams.sent,
        traffic.stream.bytes / 1_000_000,
        traffic.connections.made,
        traffic.connections.slowest_ms
    ));
    voice.proved(format_args!(
        "BPF encapsulated {by_bpf} packets on node b while it had no agent"
    ));
    Ok(())
}
