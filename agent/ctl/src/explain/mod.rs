//! `twillctl explain`: why a flow is slow right now, in one sentence.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use ipnetwork::IpNetwork;
use serde_json::json;
use twill_abi::{Program, VETH_FLAG_NEVER_FAST};

use super::permits::{self, State, View};
use super::{Place, table};
use twill_datapath::reader::{PinnedSettings, Reader, VtepStates, Way};
use twill_files::status::{self, Status};

/// Which flow.
#[derive(Args, Clone, Copy, Debug)]
pub struct Flow {
    /// The pod's side, as `10.244.1.7:40000`.
    #[arg(value_name = "POD:PORT")]
    pub pod: SocketAddr,
    /// The other side, as the pod knows it or as it is on the wire.
    #[arg(value_name = "PEER:PORT")]
    pub peer: SocketAddr,
    /// Its protocol.
    #[arg(value_enum, default_value = "tcp")]
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// All that the answer depends on.
struct Facts {
    flow: Flow,
    settings: PinnedSettings,
    /// What twilld said last, or nothing.
    said: Status,
    record: Option<View>,
    /// What is on the veth of the record.
    veth: Veth,
    /// Who carries packets to the record's VTEP.
    way: Way,
    /// The VTEP of a flow without a record from which nothing came by the uplink lately.
    unheard: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Veth {
    attached: bool,
    never_fast: bool,
}

/// Whether packets are fast, and why not.
#[derive(Debug, Eq, PartialEq)]
struct Answer {
    fast: bool,
    why: String,
}

pub(super) fn run(place: &Place, flow: Flow) -> Result<ExitCode> {
    let facts = gather(place, flow)?;
    let Answer { fast, why } = answer(&facts);
    if place.json {
        table::json(&json!({ "fast": fast, "why": why, "permit": facts.record }))?;
    } else {
        let word = if fast { "fast" } else { "slow" };
        table::line(&format!("{word}: {why}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn gather(place: &Place, flow: Flow) -> Result<Facts> {
    let pins = place.pins();
    let reader = Reader::open(&pins).context("open the pins")?;
    let path = status::path(&place.run_dir, place.instance.as_str());
    let (pod, peer) = (flow.pod.to_string(), flow.peer.to_string());
    let mut records: Vec<View> = permits::read(&reader)?
        .into_values()
        .filter(|view| view.protocol == flow.protocol.label() && view.local == pod)
        .filter(|view| view.remote == peer || view.wire_remote == peer)
        .collect();
    // A Service and its backend may both be asked for: what the pod sends goes first.
    records.sort_by_key(|view| view.remote != peer);
    let record = records.into_iter().next();
    let mut veth = Veth::default();
    let mut way = Way::Unconfirmed;
    if let Some(record) = &record {
        let on_veth = |program: Program| {
            let mut pins = reader.attachments().iter();
            pins.any(|pin| pin.ifindex == record.ifindex && pin.program == program.label())
        };
        let flags = reader.permits().veth_flags(record.ifindex)?;
        veth = Veth {
            attached: on_veth(Program::FromPod) && on_veth(Program::ToPod),
            never_fast: flags & VETH_FLAG_NEVER_FAST != 0,
        };
        let found = VtepStates::open(&pins)?.way(record.vtep_index)?;
        way = found.unwrap_or(way);
    }
    let settings = reader.settings()?;
    let unheard = if record.is_none() {
        unheard(
            &reader,
            &VtepStates::open(&pins)?,
            settings.vni,
            flow.peer.ip(),
        )?
    } else {
        None
    };
    Ok(Facts {
        flow,
        settings,
        // It helps to explain, and nothing rests on it.
        said: status::read(&path).ok().flatten().unwrap_or_default(),
        record,
        veth,
        way,
        unheard,
    })
}

/// The VTEP behind which this address lies, if nothing came from it by the uplink's hook lately.
fn unheard(
    reader: &Reader,
    states: &VtepStates,
    vni: u32,
    address: IpAddr,
) -> Result<Option<IpAddr>> {
    let observed = reader.maps().observe(vni)?;
    let mut routes = observed.routes.iter();
    let Some((_, &index)) = routes.find(|(subnet, _)| subnet.contains(address)) else {
        return Ok(None);
    };
    if states.is_heard(index)? {
        return Ok(None);
    }
    Ok(observed.vteps.get(&index).map(|vtep| vtep.underlay))
}

/// The first thing in the way, in the order in which the programs meet them.
fn answer(facts: &Facts) -> Answer {
    match obstacle(facts) {
        Some(why) => Answer { fast: false, why },
        None => Answer {
            fast: true,
            why: "netfilter accepts it in both directions; only probes, SYN, FIN and RST, and \
                  packets of a kind that never is (twillctl counters --slow) go the slow way"
                .to_owned(),
        },
    }
}

fn obstacle(facts: &Facts) -> Option<String> {
    let Facts {
        flow,
        settings,
        said,
        record,
        veth,
        way,
        unheard,
    } = facts;
    let Flow {
        pod,
        peer,
        protocol,
    } = *flow;
    let whose = |operator: Option<&str>| match operator {
        None => "as twilld says",
        Some(_) => "by the operator's override",
    };
    if settings.mode == "kernel" {
        return Some(format!("the mode is kernel, {}", whose(settings.operator)));
    }
    if settings.stale {
        return Some("twilld doubts its own settings, see twillctl status".to_owned());
    }
    let reason = said.fast_path.reason.as_deref();
    if settings.fast_path.holds == "off" {
        let by = whose(settings.fast_path.operator);
        let reason = reason.filter(|_| settings.fast_path.operator.is_none());
        let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        return Some(format!("the fast path is off, {by}{reason}"));
    }
    let own = said.subnet.parse::<IpNetwork>().ok();
    if own.is_some_and(|own| !own.contains(pod.ip())) {
        let pod = pod.ip();
        return Some(format!("{pod} is no pod of this node: ask on its own"));
    }
    if own.is_some_and(|own| own.contains(peer.ip())) {
        let peer = peer.ip();
        return Some(format!(
            "{peer} is on this node, and nothing is encapsulated"
        ));
    }
    let no_tcp = protocol == Protocol::Tcp && !settings.tcp_permits;
    if no_tcp && settings.fast_path.holds != "direct" {
        let reason = reason.unwrap_or("twilld could not set what conntrack needs");
        return Some(format!("TCP flows get no permits here ({reason})"));
    }
    if let Some((address, prefix)) = excluded(said, &[pod.ip(), peer.ip()]) {
        return Some(format!("{address} is excluded by --exclude {prefix}"));
    }
    let Some(record) = record else {
        if let Some(vtep) = unheard
            && settings.fast_path.holds == "direct"
        {
            return Some(format!(
                "nothing from {vtep} came in by the uplink lately, so that new flows to it are the \
                 stack's: it is silent, or what comes from it comes by another interface or from \
                 another address"
            ));
        }
        return Some(nothing_known(said, pod.ip()));
    };
    if veth.never_fast || !veth.attached {
        return Some(on_veth(said, record));
    }
    match record.state {
        State::Garbage => return Some("its record was written by no program of Twill".to_owned()),
        State::Tombstone => return Some("a FIN or RST was seen: it is closing".to_owned()),
        State::Expired => {
            return Some(format!(
                "netfilter did not accept a packet of it lately: it is idle, or a rule drops it \
                 now{}",
                or_ruled(said)
            ));
        }
        State::Half => {
            let missing = if record.out_seconds > 0.0 {
                "into"
            } else {
                "out of"
            };
            return Some(format!(
                "netfilter has accepted it in one direction only, and no packet {missing} the pod \
                 as established lately{}",
                or_ruled(said)
            ));
        }
        State::Live => {}
    }
    if record.stale_vtep {
        return Some("the lease behind it has changed: the next packets learn it again".to_owned());
    }
    on_the_way(settings, said, record, *way)
}

/// What keeps BPF from carrying packets to the record's VTEP.
fn on_the_way(settings: &PinnedSettings, said: &Status, record: &View, way: Way) -> Option<String> {
    if settings.routed_by_port {
        return Some(format!(
            "the kernel alone can route packets to other nodes{}",
            ruled(said)
        ));
    }
    let vtep = || {
        record
            .vtep
            .map_or_else(|| "its node".to_owned(), |vtep| vtep.to_string())
    };
    match way {
        Way::Confirmed => None,
        Way::Disputed => Some(format!(
            "the kernel's VXLAN to {} left by another next hop than bpf's would, so the kernel \
             carries it: a rule that marks outer packets, an ICMP redirect, or several gateways \
             in one route (ip rule, ip route get {}){}",
            vtep(),
            vtep(),
            ruled(said)
        )),
        Way::Unconfirmed => Some(format!(
            "the kernel's VXLAN to {} did not leave the uplink as such lately: IPsec, or a \
             rule on the outer packet",
            vtep()
        )),
    }
}

/// The routing rules that leave packets to the kernel, as the end of a sentence.
fn ruled(said: &Status) -> String {
    let rules = said.routing.iter().map(|rule| format!("; {rule}"));
    rules.collect()
}

/// The same, as one more thing that may be so: nobody knows the mark of a flow that is over.
fn or_ruled(said: &Status) -> String {
    let rules = said.routing.iter().map(|rule| format!("; or {rule}"));
    rules.collect()
}

fn excluded(said: &Status, addresses: &[IpAddr]) -> Option<(IpAddr, String)> {
    said.fast_path.exclude.iter().find_map(|prefix| {
        let network: IpNetwork = prefix.parse().ok()?;
        let address = addresses
            .iter()
            .find(|&&address| network.contains(address))?;
        Some((*address, prefix.clone()))
    })
}

fn nothing_known(said: &Status, pod: IpAddr) -> String {
    let text = format!(
        "netfilter has accepted no packet of it as established: it is new or idle, its source \
         is rewritten (conntrack -L -s {pod}), or a rule drops it"
    );
    let text = format!("{text}{}", or_ruled(said));
    match said.pods.iter().find(|pod| pod.never_fast.is_some()) {
        None => text,
        Some(pod) => format!(
            "{text}; or the pod is behind {}, which is never fast",
            pod.interface
        ),
    }
}

fn on_veth(said: &Status, record: &View) -> String {
    let name = record.interface.as_deref().unwrap_or("its veth");
    let known = said.pods.iter().find(|pod| pod.ifindex == record.ifindex);
    match known.and_then(|pod| pod.never_fast.as_deref()) {
        Some(reason) => format!("its pod is never fast: {reason}"),
        None => format!("no program is on {name}, the pod's veth: twilld puts it there"),
    }
}

#[cfg(test)]
mod tests;
