//! Three nodes with a pod each, and a host on the underlay that is no node.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::forge::Frames;
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B, NODE_C, STRANGER, UPLINK};

use crate::kinds::{Forged, Target};
use crate::watch::{PORT, Watch};

/// "Within seconds", on a machine that does other things as well.
pub(crate) const SECONDS: Duration = Duration::from_secs(40);

/// The node under attack.
pub(crate) const A: usize = 0;
/// A peer whose address is forged.
pub(crate) const B: usize = 1;
/// Another peer.
pub(crate) const C: usize = 2;

/// Whether the other tests of this tier may run at the same time.
static MACHINE: RwLock<()> = RwLock::new(());

/// The lock, held until it is dropped.
#[expect(dead_code, reason = "held, never read")]
enum Quiet {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// The nodes, and who attacks the first of them.
pub(crate) struct Arena {
    pub(crate) cluster: Cluster,
    /// Held for its namespace.
    _mallory: Node,
    _quiet: Quiet,
    frames: Frames,
    vtep_mac: [u8; 6],
}

impl Arena {
    /// As many nodes, the first of which has these flags.
    pub(crate) fn of(nodes: usize, flags: &[&str]) -> Result<Self> {
        Self::on(UnderlayOptions::default(), nodes, flags)
    }

    /// The same on an underlay that is built like this.
    pub(crate) fn on(options: UnderlayOptions, nodes: usize, flags: &[&str]) -> Result<Self> {
        let quiet = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        Self::with(options, nodes, flags, Quiet::Shared(quiet))
    }

    /// The same, on a machine on which no other test of this tier runs.
    pub(crate) fn alone(nodes: usize, flags: &[&str]) -> Result<Self> {
        let quiet = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        Self::with(
            UnderlayOptions::default(),
            nodes,
            flags,
            Quiet::Alone(quiet),
        )
    }

    fn with(options: UnderlayOptions, nodes: usize, flags: &[&str], quiet: Quiet) -> Result<Self> {
        let mut cluster = Cluster::new(Prefix::unique(), options)?;
        let places = [("a", NODE_A), ("b", NODE_B), ("c", NODE_C)];
        for (label, address) in places.into_iter().take(nodes) {
            let flags = if address == NODE_A { flags } else { &[] };
            cluster.add_node_with(label, address, flags)?.add_pod("1")?;
        }
        cluster.wait_mesh()?;
        let mallory = cluster.underlay.join("mallory", STRANGER)?;
        let frames = Frames::on(mallory.namespace(), UPLINK)?;
        let status = cluster.members[A].agent.status()?;
        let mac = status["status"]["mac"].as_str().context("no MAC address")?;
        let arena = Self {
            cluster,
            _mallory: mallory,
            _quiet: quiet,
            frames,
            vtep_mac: parse_mac(mac).with_context(|| format!("{mac} is no MAC address"))?,
        };
        arena.cluster.explained(arena.wait_guard())?;
        Ok(arena)
    }

    /// The node under attack.
    pub(crate) fn victim(&self) -> &Member {
        &self.cluster.members[A]
    }

    /// The namespace of a node's pod.
    pub(crate) fn pod(&self, node: usize) -> &Namespace {
        self.cluster.members[node].pods[0].namespace()
    }

    /// Address of a node's pod.
    pub(crate) fn address(&self, node: usize) -> Ipv4Addr {
        self.cluster.members[node].pods[0].address()
    }

    /// Addresses of what is attacked.
    pub(crate) fn target(&self) -> Target {
        let other = if self.cluster.members.len() > C { C } else { B };
        Target {
            vtep_mac: self.vtep_mac,
            pod: self.address(A),
            gateway: self.victim().env.subnet.ip(),
            peer_pod: self.address(B),
            other_pod: self.address(other),
        }
    }

    /// VXLAN to the victim's pod that is in order, and that nobody sent whom the victim knows.
    pub(crate) fn stranger(&self, word: &str) -> Vec<u8> {
        let mut forged = Forged::new(&self.target());
        forged.outer.source = STRANGER;
        forged.frame(word)
    }

    /// Starts the victim's agent again, with other flags.
    pub(crate) fn restart(&mut self, flags: &[&str]) -> Result<()> {
        let agent = &mut self.cluster.members[A].agent;
        agent.stop()?;
        agent.set_flags(flags);
        agent.start_again()?;
        agent.wait_ready()?;
        self.cluster.explained(self.wait_guard())
    }

    /// What `twillctl status` says of the victim's guard.
    pub(crate) fn guard(&self) -> Result<serde_json::Value> {
        Ok(self.victim().agent.status()?["status"]["guard"].take())
    }

    /// Waits until the guard does what it was asked for.
    fn wait_guard(&self) -> Result<()> {
        wait_until("the guard is where it belongs", SECONDS, || {
            let Ok(guard) = self.guard() else {
                return false;
            };
            guard["wanted"] == "off"
                || (guard["by"] != "nowhere"
                    && (guard["wanted"] == "count" || guard["drops"] == true))
        })
        .with_context(|| format!("the guard says {:?}", self.guard()))
    }

    /// Mallory sends frames.
    pub(crate) fn send(&self, frames: &[Vec<u8>]) -> Result<()> {
        frames.iter().try_for_each(|frame| self.frames.send(frame))
    }

    /// A peer's pod speaks to the victim's until it is heard: whatever was sent before has
    /// arrived by then, or never will.
    pub(crate) fn settle(&self, watch: &Watch) -> Result<()> {
        let to = self.address(A);
        let socket = self.pod(B).enter(|| UdpSocket::bind("0.0.0.0:0"))??;
        let before = watch.count("honest");
        let heard = wait_until("the honest pod is heard", SECONDS, || {
            // A lost one is sent again.
            socket.send_to(b"honest|", (to, PORT)).is_ok() && watch.count("honest") > before + 2
        });
        self.cluster.explained(heard)?;
        ensure!(watch.count("honest") > before);
        Ok(())
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .ok()?;
    bytes.try_into().ok()
}
