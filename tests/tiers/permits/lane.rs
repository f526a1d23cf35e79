//! Two nodes with kube-proxy's rules and pods, with Twill or as stock flannel leaves them.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData, MapError};
use twill_abi::maps::{PERMITS_POD, PERMITS_WIRE};
use twill_abi::{FlowTuple, Mapping, Permit};
use twill_agent::datapath::pins::Pins;
use twill_testbed::agent::Agent;
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::pod::Pod;
use twill_testbed::stock::Pair;
use twill_testbed::subnet_env::SubnetEnv;
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NODE_A, NODE_B};

/// "Within seconds", with room for a busy machine.
pub(crate) const SECONDS: Duration = Duration::from_secs(15);
/// A Service's address.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The Service's port.
const VIP_PORT: u16 = 80;
/// The Service.
pub(crate) const SERVICE: SocketAddrV4 = SocketAddrV4::new(VIP, VIP_PORT);
/// Twill's default.
pub(crate) const PERMIT: Who = Who::Twill("permit");
/// The port that the Service's backends listen on.
pub(crate) const PORT: u16 = 8080;
/// The permit time of the tests.
pub(crate) const PERMIT_TIME: Duration = Duration::from_secs(2);

/// What carries packets between the nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    /// Twill in this mode of the fast path.
    Twill(&'static str),
    /// The kernel, as flannel sets it up.
    Stock,
}

/// Two nodes, `a` and `b`, and a pod on each.
pub(crate) struct Lane {
    pub(crate) who: Who,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Twill(Cluster),
    Stock(Box<Pair>, Vec<Pod>),
}

impl Lane {
    pub(crate) fn new(who: Who) -> Result<Self> {
        Self::with(who, &[])
    }

    /// A lane whose agents have further flags.
    pub(crate) fn with(who: Who, flags: &[&str]) -> Result<Self> {
        let kind = match who {
            Who::Stock => Kind::Stock(Box::new(Pair::new(UnderlayOptions::default())?), Vec::new()),
            Who::Twill(mode) => Kind::Twill(cluster(mode, flags, |_| Ok(()))?),
        };
        let lane = Self { who, kind };
        lane.serve(&[lane.pod(1).address()])?;
        Ok(lane)
    }

    /// A lane on vxlan devices that were there before Twill, and stay when it goes.
    pub(crate) fn adopting(flags: &[&str], prepare: impl Fn(&Node) -> Result<()>) -> Result<Self> {
        let lane = Self {
            who: Who::Twill("permit"),
            kind: Kind::Twill(cluster("permit", flags, prepare)?),
        };
        lane.serve(&[lane.pod(1).address()])?;
        Ok(lane)
    }

    pub(crate) fn node(&self, side: usize) -> &Node {
        match &self.kind {
            Kind::Twill(cluster) => &cluster.members[side].node,
            Kind::Stock(pair, _) => &pair.nodes[side],
        }
    }

    /// The host's namespace of a node.
    pub(crate) fn host(&self, side: usize) -> &Arc<Namespace> {
        self.node(side).namespace()
    }

    /// The first pod of a node.
    pub(crate) fn pod(&self, side: usize) -> &Pod {
        match &self.kind {
            Kind::Twill(cluster) => &cluster.members[side].pods[0],
            Kind::Stock(pair, _) => &pair.pods[side],
        }
    }

    /// One more pod.
    pub(crate) fn add_pod(&mut self, side: usize, label: &str) -> Result<&Pod> {
        match &mut self.kind {
            Kind::Twill(cluster) => cluster.members[side].add_pod(label),
            Kind::Stock(pair, more) => {
                let env = SubnetEnv::read(&pair.nodes[side].directory().join("subnet.env"))?;
                Ok(more.push_mut(Pod::add(&pair.nodes[side], label, &env)?))
            }
        }
    }

    /// Deletes the first pod of a node and makes another with the same address.
    pub(crate) fn replace_pod(&mut self, side: usize, label: &str) -> Result<()> {
        // host-local goes on after the last address it gave; without a last one it starts anew.
        let last = "cni/cbr0/last_reserved_ip.0";
        let last = self.node(side).directory().join(last);
        let pod = match &mut self.kind {
            Kind::Stock(pair, _) => {
                let env = SubnetEnv::read(&pair.nodes[side].directory().join("subnet.env"))?;
                let spare = Pod::add(&pair.nodes[side], "spare", &env)?;
                let address = pair.pods[side].address();
                drop(std::mem::replace(&mut pair.pods[side], spare));
                std::fs::remove_file(&last)?;
                pair.pods[side] = Pod::add(&pair.nodes[side], label, &env)?;
                ensure!(pair.pods[side].address() == address, "another address");
                return Ok(());
            }
            Kind::Twill(cluster) => {
                let member = &mut cluster.members[side];
                let address = member.pods.remove(0).address();
                std::fs::remove_file(&last)?;
                let pod = Pod::add(&member.node, label, &member.env)?;
                ensure!(pod.address() == address, "another address");
                pod
            }
        };
        if let Kind::Twill(cluster) = &mut self.kind {
            cluster.members[side].pods.insert(0, pod);
        }
        Ok(())
    }

    pub(crate) fn member(&self, side: usize) -> Result<&Member> {
        match &self.kind {
            Kind::Twill(cluster) => Ok(&cluster.members[side]),
            Kind::Stock(..) => anyhow::bail!("a stock node has no agent"),
        }
    }

    pub(crate) fn members(&mut self) -> &mut [Member] {
        match &mut self.kind {
            Kind::Twill(cluster) => &mut cluster.members,
            Kind::Stock(..) => &mut [],
        }
    }

    /// Writes the Service's rules on both nodes, as kube-proxy's iptables mode does, in place of
    /// those that were there.
    pub(crate) fn serve(&self, backends: &[Ipv4Addr]) -> Result<()> {
        for side in 0..2 {
            let host = self.host(side);
            restore(host, &rules(backends))?;
            if host
                .run(&["iptables", "-C", "FORWARD", "-j", "KUBE-FORWARD"])
                .is_err()
            {
                host.set_sysctl("net.bridge.bridge-nf-call-iptables", "1")?;
                restore(host, HOOKS)?;
            }
        }
        Ok(())
    }

    /// Waits until the programs are on the first pods' veths.
    pub(crate) fn wait_attached(&self) -> Result<()> {
        for side in [0, 1] {
            let index = self.pod(side).namespace().link_json("eth0")?["link_index"].clone();
            wait_for("programs are on the pod's veth", SECONDS, || {
                let status = self.member(side)?.agent.ctl(&["status"])?;
                let pins = status["pins"]["attached"].as_array().context("no pins")?;
                let on = pins.iter().filter(|pin| pin["ifindex"] == index).count();
                Ok((on == 2).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Asks until packets of both directions skipped the stack of both nodes; on a stock lane
    /// once.
    pub(crate) fn make_fast(&self, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
        if self.who == Who::Stock {
            return ask();
        }
        let before = self.fast_packets()?;
        let what = "packets are fast on both nodes, both ways";
        wait_for(what, SECONDS, || {
            for _ in 0..10 {
                ask()?;
            }
            let now = self.fast_packets()?;
            let all = now.iter().zip(before).all(|(now, then)| *now > then + 20);
            Ok(all.then_some(()))
        })
    }

    /// Packets that went fast so far: out of and into the pods of `a`, then of `b`.
    pub(crate) fn fast_packets(&self) -> Result<[u64; 4]> {
        let (a, b) = (
            self.member(0)?.agent.counters()?,
            self.member(1)?.agent.counters()?,
        );
        Ok([
            a.packets("from_pod", "fast")?,
            a.packets("from_uplink", "fast")?,
            b.packets("from_pod", "fast")?,
            b.packets("from_uplink", "fast")?,
        ])
    }

    /// [`Self::fast_packets`]; none on a stock lane.
    pub(crate) fn fast_or_none(&self) -> Result<Option<[u64; 4]>> {
        match self.who {
            Who::Stock => Ok(None),
            Who::Twill(_) => self.fast_packets().map(Some),
        }
    }

    /// The switch between the nodes.
    pub(crate) fn switch(&self) -> &Namespace {
        match &self.kind {
            Kind::Twill(cluster) => cluster.underlay.switch(),
            Kind::Stock(pair, _) => pair.underlay.switch(),
        }
    }

    /// Packets of a node that a program counted for a reason.
    pub(crate) fn count(&self, side: usize, program: &str, reason: &str) -> Result<u64> {
        let counters = self.member(side)?.agent.counters()?;
        counters.packets(program, reason)
    }

    /// The permits of a node, of every state.
    pub(crate) fn permits(&self, side: usize) -> Result<Vec<Permit>> {
        let map =
            HashMap::<MapData, FlowTuple, Permit>::try_from(self.map(side, PERMITS_POD.name)?)?;
        let mut found = Vec::new();
        for key in map.keys() {
            match map.get(&key?, 0) {
                Ok(permit) => found.push(permit),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// The permit of the flow with this port on the pod's side.
    pub(crate) fn permit(&self, side: usize, local_port: u16) -> Result<Option<Permit>> {
        let mut permits = self.permits(side)?.into_iter();
        Ok(permits.find(|permit| permit.pod.local_port.to_host() == local_port))
    }

    /// Forgets the flows of a node, as an LRU map under pressure would.
    pub(crate) fn evict(&self, side: usize) -> Result<()> {
        for permit in self.permits(side)? {
            let mut map =
                HashMap::<MapData, FlowTuple, Permit>::try_from(self.map(side, PERMITS_POD.name)?)?;
            let mut wire = HashMap::<MapData, FlowTuple, Mapping>::try_from(
                self.map(side, PERMITS_WIRE.name)?,
            )?;
            map.remove(&permit.pod)?;
            if permit.wire != permit.pod {
                wire.remove(&permit.wire)?;
            }
        }
        Ok(())
    }

    fn map(&self, side: usize, name: &str) -> Result<Map> {
        let instance = self.member(side)?.agent.instance().parse()?;
        let path = Pins::new(Path::new("/sys/fs/bpf"), &instance).map(name);
        let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Map::from_map_data(data)?)
    }

    /// The host-side veth of a node's first pod.
    pub(crate) fn veth(&self, side: usize) -> Result<String> {
        let link = self.pod(side).namespace().link_json("eth0")?;
        let index = link["link_index"].as_u64().context("no peer")?;
        let links: serde_json::Value =
            serde_json::from_str(&self.host(side).run(&["ip", "-json", "link", "show"])?)?;
        let links = links.as_array().context("no list of links")?;
        let veth = links.iter().find(|link| link["ifindex"] == index);
        let name = veth.and_then(|link| link["ifname"].as_str());
        Ok(name.context("no host-side veth")?.to_owned())
    }

    /// Adds the ends of the agents' logs to an error.
    pub(crate) fn explained<T>(&self, result: Result<T>) -> Result<T> {
        match &self.kind {
            Kind::Twill(cluster) => cluster.explained(result),
            Kind::Stock(..) => result,
        }
        .with_context(|| format!("{:?}", self.who))
    }
}

/// The remote address of a permit on the wire.
pub(crate) fn wire_remote(permit: &Permit) -> IpAddr {
    IpAddr::from(permit.wire.remote)
}

fn cluster(mode: &str, flags: &[&str], prepare: impl Fn(&Node) -> Result<()>) -> Result<Cluster> {
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let permit_time = PERMIT_TIME.as_secs().to_string();
    let mut all = vec!["--fast-path", mode, "--permit-time", &permit_time];
    all.extend(flags);
    for (label, address) in [("a", NODE_A), ("b", NODE_B)] {
        let node = cluster.underlay.join(label, address)?;
        prepare(&node)?;
        let mut agent = Agent::new(&node, &cluster.lease_server.url(), &all);
        agent.start_again()?;
        let env = agent.wait_ready()?;
        let mut member = Member {
            pods: Vec::new(),
            agent,
            node,
            env,
        };
        member.add_pod("1")?;
        cluster.members.push(member);
    }
    cluster.wait_mesh()?;
    Ok(cluster)
}

/// Gives iptables a table at a time, as kube-proxy does.
pub(crate) fn restore(host: &Namespace, rules: &str) -> Result<()> {
    let script = format!("iptables-restore --noflush <<'END'\n{rules}END\n");
    host.run(&["sh", "-c", &script]).map(drop)
}

/// Where kube-proxy's chains begin, and flannel's word that pods keep their addresses among
/// themselves.
const HOOKS: &str = "*nat
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-I POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -m mark ! --mark 0x4000/0x4000 -j ACCEPT
-I POSTROUTING -j KUBE-POSTROUTING
COMMIT
*filter
-A FORWARD -j KUBE-FORWARD
COMMIT
";

/// kube-proxy's rules for one Service with these backends, TCP and UDP, cluster CIDR detection.
fn rules(backends: &[Ipv4Addr]) -> String {
    let mut nat = String::from(
        "*nat\n:KUBE-SERVICES -\n:KUBE-POSTROUTING -\n:KUBE-MARK-MASQ -\n:KUBE-SVC -\n",
    );
    for number in 0..backends.len() {
        nat.extend([format!(":KUBE-SEP-{number} -\n")]);
    }
    nat += "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
            -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
            -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
            -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n";
    for protocol in ["tcp", "udp"] {
        nat.extend([format!(
            "-A KUBE-SERVICES -d {VIP}/32 -p {protocol} --dport {VIP_PORT} -j KUBE-SVC\n"
        )]);
    }
    nat += "-A KUBE-SVC ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ\n";
    for (number, backend) in backends.iter().enumerate() {
        let left = backends.len() - number;
        let choice = match left {
            1 => String::new(),
            _ => format!(" -m statistic --mode nth --every {left} --packet 0"),
        };
        nat.extend([format!("-A KUBE-SVC{choice} -j KUBE-SEP-{number}\n")]);
        nat.extend([format!(
            "-A KUBE-SEP-{number} -s {backend}/32 -j KUBE-MARK-MASQ\n"
        )]);
        for protocol in ["tcp", "udp"] {
            nat.extend([format!(
                "-A KUBE-SEP-{number} -p {protocol} -j DNAT --to-destination {backend}:{PORT}\n"
            )]);
        }
    }
    nat += "COMMIT\n*filter\n:KUBE-FORWARD -\n\
            -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
            -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
            -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
            COMMIT\n";
    nat
}
