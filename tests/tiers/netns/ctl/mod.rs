//! `twillctl` on nodes where real daemons have done their work: what it tells of permits, and its
//! switches, most of them with the daemon dead.

mod permits;
mod switch;
mod teardown;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use twill_testbed::agent::Agent;
use twill_testbed::cluster::Cluster;
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::pod::Pod;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::{NODE_A, NODE_B};

/// "Soon", with room for a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Two nodes with a pod each, their daemons ready and their programs on the pods' veths.
fn pair() -> Result<Cluster> {
    pair_with(&[])
}

/// As [`pair`], with flags for the daemon of the first node.
fn pair_with(flags: &[&str]) -> Result<Cluster> {
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    for (label, address) in [("a", NODE_A), ("b", NODE_B)] {
        let member = cluster.add_node(label, address)?;
        // Else the bridge plugin masquerades pod to pod, and such flows are never fast.
        member.env.ip_masq = true;
        member.add_pod("1")?;
    }
    cluster.wait_mesh()?;
    if !flags.is_empty() {
        let url = cluster.lease_server.url();
        let member = &mut cluster.members[0];
        member.agent.stop()?;
        member.agent = Agent::new(&member.node, &url, flags);
        member.agent.start_again()?;
        member.agent.wait_ready()?;
    }
    Ok(cluster)
}

fn agent(cluster: &Cluster) -> &Agent {
    &cluster.members[0].agent
}

fn pods(cluster: &Cluster) -> (&Pod, &Pod) {
    (&cluster.members[0].pods[0], &cluster.members[1].pods[0])
}

/// Waits until the programs are on the pods of both nodes.
fn wait_attached(cluster: &Cluster) -> Result<()> {
    for member in &cluster.members {
        wait_until("the programs are on the pod's veth", SOON, || {
            let status = member.agent.status().unwrap_or_default();
            let attached = status["pins"]["attached"].as_array().cloned();
            attached.is_some_and(|pins| pins.iter().any(|pin| pin["program"] == "to_pod"))
        })?;
    }
    Ok(())
}

/// A TCP connection that says something now and then, and checks the answer.
struct Talk(TcpStream);

impl Talk {
    fn open(from: &Namespace, to: SocketAddr) -> Result<Self> {
        let stream = from
            .enter(|| TcpStream::connect_timeout(&to, ANSWER))?
            .with_context(|| format!("connect from {} to {to}", from.name()))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    fn say(&mut self) -> Result<()> {
        let said = *b"a few words";
        self.0.write_all(&said)?;
        let mut heard = [0; 11];
        self.0.read_exact(&mut heard).context("no answer")?;
        ensure!(said == heard, "heard {heard:?}");
        Ok(())
    }

    /// Says as much in so many words.
    fn chat(&mut self, words: usize) -> Result<()> {
        (0..words).try_for_each(|_| self.say())
    }

    /// Talks until `so` is so.
    fn until(&mut self, what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
        wait_for(what, SOON, || {
            self.say()?;
            Ok(so()?.then_some(()))
        })
    }
}

fn packets(agent: &Agent, program: &str, reason: &str) -> Result<u64> {
    agent.counters()?.packets(program, reason)
}

/// Talks until packets of this node's pod are carried by a permit, both ways.
fn until_fast(talk: &mut Talk, agent: &Agent) -> Result<()> {
    for program in ["from_pod", "from_uplink"] {
        let before = packets(agent, program, "fast")?;
        talk.until(&format!("{program} carries packets"), || {
            Ok(packets(agent, program, "fast")? > before)
        })?;
    }
    Ok(())
}

/// The permits that `twillctl permits list` tells, with more words.
fn list(agent: &Agent, words: &[&str]) -> Result<Vec<Value>> {
    let told = agent.ctl(&[&["permits", "list"], words].concat())?;
    told["permits"].as_array().cloned().context("no permits")
}

fn address(pod: &Pod, port: u16) -> SocketAddr {
    (pod.address(), port).into()
}

/// A Service of the first node, in front of the pod of the second.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
