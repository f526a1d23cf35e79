//! What the kernel can do, found by trying: never by its version.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::tc::{NlOptions, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramType, SchedClassifier, TcAttachType, tc};
use aya::sys::{BpfHelper, is_helper_supported};
use nix::sched::{CloneFlags, unshare};
use twill_agent::datapath::probe;

use crate::machine;
use crate::message::Message;
use crate::programs;
use crate::reporter::Reporter;

/// One end of a cable that the trials may do with as they like.
const CABLE: &str = "trial0";
/// The other.
const OTHER_END: &str = "trial1";
/// A program that passes every packet on while its map of settings is empty.
const PROGRAM: &str = "to_uplink";

/// A trial; the error says why the feature is not there.
type Trial = fn(&[u8]) -> Result<()>;

/// Every feature, by its name in the table.
const TRIALS: [(&str, Trial); 17] = [
    ("encap by BPF", encap),
    ("`bpf_redirect_peer`", |_| {
        helper(BpfHelper::BPF_FUNC_redirect_peer)
    }),
    ("`bpf_csum_level`", |_| {
        helper(BpfHelper::BPF_FUNC_csum_level)
    }),
    ("ring buffer", |_| {
        helper(BpfHelper::BPF_FUNC_ringbuf_output)
    }),
    ("TCX link", tcx),
    ("clsact filter", filter),
    ("conntrack ignores invalid RST", |_| {
        sysctl("net/netfilter/nf_conntrack_tcp_ignore_invalid_rst")
    }),
    ("conntrack is liberal", |_| {
        sysctl("net/netfilter/nf_conntrack_tcp_be_liberal")
    }),
    ("nft `ct timeout` objects", ct_timeout),
    ("nft `ct helper`, `ct zone`", ct_keys),
    ("vxlan device", |_| {
        link("type vxlan id 77 dstport 4077 nolearning")
    }),
    ("dummy device", |_| link("type dummy")),
    ("VLAN device", |_| {
        link(&format!("link {CABLE} type vlan id 7"))
    }),
    ("wireguard device", |_| link("type wireguard")),
    ("netem", |_| {
        machine::run(&[
            "tc", "qdisc", "add", "dev", OTHER_END, "root", "netem", "delay", "1ms", "loss", "1%",
        ])
    }),
    ("IPVS", |_| present("/proc/net/ip_vs")),
    ("SCTP", |_| present("/proc/net/sctp")),
];

/// Tries everything, says what came of it, and gives the names of what is there.
pub(crate) fn try_all(object: &[u8], reporter: &mut Reporter) -> Result<BTreeSet<&'static str>> {
    // The trials' devices are gone with this thread's namespace.
    let found = std::thread::scope(|scope| {
        scope
            .spawn(|| -> Result<Vec<_>> {
                unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
                machine::run(&[
                    "ip", "link", "add", CABLE, "type", "veth", "peer", "name", OTHER_END,
                ])?;
                Ok(TRIALS
                    .map(|(name, trial)| (name, trial(object).err()))
                    .into())
            })
            .join()
    });
    let Ok(found) = found else {
        bail!("a trial panicked")
    };
    let mut there = BTreeSet::new();
    for (name, missing) in found? {
        if missing.is_none() {
            there.insert(name);
        }
        let missing = missing.map(|error| format!("{error:#}"));
        reporter.say(&Message::Feature {
            name: name.to_owned(),
            missing,
        })?;
    }
    Ok(there)
}

fn helper(helper: BpfHelper) -> Result<()> {
    ensure!(
        is_helper_supported(ProgramType::SchedClassifier, helper)?,
        "the verifier knows no such helper"
    );
    Ok(())
}

/// The agent's own question.
fn encap(object: &[u8]) -> Result<()> {
    Ok(probe::encap(&mut programs::largest(object)?)?)
}

fn tcx(object: &[u8]) -> Result<()> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    attach(object, options)
}

fn filter(object: &[u8]) -> Result<()> {
    tc::qdisc_add_clsact(CABLE).context("add a clsact qdisc")?;
    attach(object, TcAttachOptions::Netlink(NlOptions::default()))
}

fn attach(object: &[u8], options: TcAttachOptions) -> Result<()> {
    let mut ebpf = programs::largest(object)?;
    let program = classifier(&mut ebpf, PROGRAM)?;
    program.attach_with_options(CABLE, TcAttachType::Egress, options)?;
    Ok(())
}

fn classifier<'a>(ebpf: &'a mut aya::Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the object has no program {name}"))?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    Ok(program)
}

fn sysctl(name: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    fs::read_to_string(&path).with_context(|| path)?;
    Ok(())
}

fn ct_timeout(_: &[u8]) -> Result<()> {
    nft(
        "add table inet trial; add ct timeout inet trial long { protocol tcp; l3proto ip; policy = { unack: 432000, retrans: 432000 }; }",
    )
}

fn ct_keys(_: &[u8]) -> Result<()> {
    nft(
        "add table inet trial; add chain inet trial c; add rule inet trial c ct zone 0 ct status snat meta mark set meta mark or 0x1000; add rule inet trial c ct helper \"ftp\" accept",
    )
}

fn nft(commands: &str) -> Result<()> {
    machine::run(&["nft", commands])
}

fn link(words: &str) -> Result<()> {
    let words = words.split_whitespace();
    machine::run(
        &["ip", "link", "add", "trial2"]
            .into_iter()
            .chain(words)
            .collect::<Vec<_>>(),
    )?;
    machine::run(&["ip", "link", "delete", "trial2"])
}

fn present(path: &str) -> Result<()> {
    ensure!(Path::new(path).exists(), "there is no {path}");
    Ok(())
}
