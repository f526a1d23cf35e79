//! Pods that Twill's own CNI plugin wires: in the fast path from the end of ADD to DEL, whether the
//! daemon runs or not.

use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::HashMap;
use aya::programs::links::{FdLink, PinnedLink};
use nix::net::if_::if_nametoindex;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::json;
use twill_abi::maps::VETH_FLAGS;
use twill_abi::{VETH_FLAG_ATTACHED, VETH_FLAG_NEVER_FAST, VethFlags};
use twill_agent::datapath::permits::VethUse;
use twill_agent::datapath::pinned::Pinned;
use twill_agent::datapath::place::Interface;
use twill_testbed::daemon;
use twill_testbed::pod::Pod;
use twill_testbed::wait::wait_until;

use crate::lab::{A, B, Lab, Options, SECONDS, twill};
use crate::rules::ECHO;
use crate::talk::{Flow, Server};

impl Lab {
    /// Has Twill's plugin wire a pod of node B, with these plugins behind it in the runtime's list.
    fn plug(&self, label: &str, behind: &[&str]) -> Result<Pod> {
        let member = self.member(B);
        let lists = member.node.directory().join("net.d");
        fs::create_dir_all(&lists)?;
        let types = [&["flannel"], behind].concat();
        let plugins: Vec<_> = types.iter().map(|kind| json!({"type": kind})).collect();
        let list = json!({"name": "cbr0", "plugins": plugins}).to_string();
        fs::write(lists.join("10-flannel.conflist"), list)?;
        Pod::add_by_twill(&member.node, label, &member.agent, &lists)
    }

    /// What node B's maps say about a veth; nothing of one that is not in them.
    fn flags(&self, veth: u32) -> Result<Option<u32>> {
        let flags: HashMap<_, u32, VethFlags> = self.map(B, VETH_FLAGS.name)?.try_into()?;
        Ok(flags.get(&veth, 0).ok().map(|value| value.flags))
    }

    /// The pins of programs on a veth of node B.
    fn pins_on(&self, veth: u32) -> Result<Vec<PathBuf>> {
        let folder = self.member(B).agent.pins().join("v1");
        let mut found = Vec::new();
        for pin in fs::read_dir(folder)? {
            let path = pin?.path();
            if path.to_string_lossy().ends_with(&format!("_pod_{veth}")) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

fn veth_of(pod: &Pod) -> Result<u32> {
    let index = &pod.namespace().link_json("eth0")?["link_index"];
    let index = index.as_u64().context("the pod has no host-side veth")?;
    Ok(u32::try_from(index)?)
}

#[test]
fn a_pod_comes_and_goes_without_a_daemon() -> Result<()> {
    twill(Options::default(), |lab| {
        let stays = veth_of(lab.pod(B, 0))?;
        let _old = Server::backend(lab.pod(B, 0), "old")?;
        let old = SocketAddrV4::new(lab.pod(B, 0).address(), ECHO);
        let mut before = Flow::udp(lab.pod(A, 0).namespace(), 5290, old)?;
        lab.until_fast(&mut before)?;
        lab.cluster.members[B].agent.kill()?;

        let pod = lab.plug("new", &["portmap", "firewall", "tuning"])?;
        let veth = veth_of(&pod)?;
        ensure!(lab.flags(veth)? == Some(VETH_FLAG_ATTACHED));
        ensure!(lab.pins_on(veth)?.len() == 2, "{:?}", lab.pins_on(veth)?);
        let server = Server::backend(&pod, "new")?;
        let to = SocketAddrV4::new(pod.address(), ECHO);
        for flow in [Flow::udp, Flow::tcp] {
            let mut flow = flow(lab.pod(A, 0).namespace(), 5291, to)?;
            lab.until_fast(&mut flow)?;
            ensure!(flow.ask()?.name == "new");
        }
        let of_pod = |veth: u32| -> Result<usize> {
            let permits = lab.permits(B)?.into_iter();
            Ok(permits.filter(|permit| permit.ifindex == veth).count())
        };
        ensure!(of_pod(veth)? >= 2 && of_pod(stays)? >= 1);

        drop(server);
        drop(pod);
        ensure!(lab.flags(veth)?.is_none(), "it is still in the maps");
        ensure!(lab.pins_on(veth)?.is_empty(), "{:?}", lab.pins_on(veth)?);
        ensure!(of_pod(veth)? == 0, "it still has permits");
        // What belongs to others stays.
        ensure!(of_pod(stays)? >= 1 && lab.flags(stays)? == Some(VETH_FLAG_ATTACHED));
        lab.until_fast(&mut before)
    })
}

/// How much of a CPU the plugin's own part takes, where there are pins and no pod to take away.
fn own_part(lab: &Lab) -> Result<Duration> {
    let member = lab.member(B);
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "cbr0",
        "type": "flannel",
        "dataDir": member.node.directory().join("plugin"),
        "twill": {"instance": member.agent.instance()},
    });
    let plugin = daemon::binary("flannel")?;
    let file = member.node.directory().join("config");
    fs::write(&file, config.to_string())?;
    let used = || -> Result<Duration> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let both = usage.user_time() + usage.system_time();
        Ok(Duration::from_micros(both.num_microseconds().try_into()?))
    };
    let mut took = Vec::new();
    for _ in 0..15 {
        let before = used()?;
        let call = || -> Result<ExitStatus> {
            let mut command = Command::new(&plugin);
            command
                .env("CNI_COMMAND", "DEL")
                .env("CNI_CONTAINERID", "nobody")
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", "/nonexistent")
                .stdin(fs::File::open(&file)?);
            Ok(command.status()?)
        };
        let status = member.node.namespace().enter(call)??;
        ensure!(status.success(), "{status}");
        took.push(used()?.saturating_sub(before));
    }
    took.sort();
    Ok(took[took.len() / 2])
}

/// Container runtimes start it for each pod, and wait.
#[test]
fn it_takes_less_than_ten_milliseconds_beside_its_delegate() -> Result<()> {
    twill(Options::default(), |lab| {
        let median = own_part(lab)?;
        ensure!(median < Duration::from_millis(10), "{median:?}");
        Ok(())
    })
}

#[test]
fn what_a_plugin_behind_it_may_do_is_not_skipped() -> Result<()> {
    twill(Options::flags(&["--guard", "enforce"]), |lab| {
        lab.cluster.members[B].agent.kill()?;
        let slow = Some(VETH_FLAG_ATTACHED | VETH_FLAG_NEVER_FAST);
        let limited = lab.plug("limited", &["portmap", "bandwidth"])?;
        let veth = veth_of(&limited)?;
        ensure!(lab.flags(veth)? == slow);
        // Watched only: by `from_pod`, for what pods may not send.
        ensure!(lab.pins_on(veth)?.len() == 1, "{:?}", lab.pins_on(veth)?);
        let _server = Server::backend(&limited, "limited")?;
        let to = SocketAddrV4::new(limited.address(), ECHO);
        ensure!(Flow::udp(lab.pod(A, 0).namespace(), 5292, to)?.ask()?.name == "limited");

        // A daemon sees what was done to the pod, and that it was nothing.
        let agent = &mut lab.cluster.members[B].agent;
        agent.start_again()?;
        agent.wait_ready()?;
        wait_until("the daemon judges it", SECONDS, || {
            matches!(lab.flags(veth), Ok(Some(VETH_FLAG_ATTACHED)))
        })
    })
}

#[test]
fn a_daemon_and_the_plugin_do_not_undo_each_other_s_work() -> Result<()> {
    twill(Options::default(), |lab| {
        let identities = |veth: u32| -> Result<Vec<u32>> {
            let pins = lab.pins_on(veth)?.into_iter();
            pins.map(|pin| Ok(FdLink::from(PinnedLink::from_pin(pin)?).info()?.id()))
                .collect()
        };
        for number in 0..5 {
            // Whatever stands behind it: the daemon sees that.
            let pod = lab.plug(&format!("p{number}"), &["bandwidth"])?;
            let veth = veth_of(&pod)?;
            ensure!(lab.flags(veth)? == Some(VETH_FLAG_ATTACHED), "not at once");
            let first = identities(veth)?;
            ensure!(first.len() == 2, "{first:?}");
            wait_until("the daemon has seen it", SECONDS, || {
                let status = lab.member(B).agent.ctl(&["status"]).unwrap_or_default();
                let attached = status["status"]["attached"].as_array();
                let on = |one: &&serde_json::Value| one["ifindex"] == veth;
                attached.is_some_and(|attached| attached.iter().filter(on).count() == 2)
            })?;
            ensure!(identities(veth)? == first, "it was attached again");
            // A limit that comes later is seen, as ever.
            let link = lab.member(B).node.namespace().run(&["ip", "-o", "link"])?;
            let line = link
                .lines()
                .find(|line| line.starts_with(&format!("{veth}: ")));
            let name = line.and_then(|line| line.split([':', '@']).nth(1));
            let name = name.context("no such link")?.trim();
            lab.on(
                B,
                &format!("tc qdisc add dev {name} root tbf rate 1gbit burst 1mb latency 10ms"),
            )?;
            wait_until(
                "it is never fast",
                SECONDS,
                || matches!(lab.flags(veth), Ok(Some(flags)) if flags & VETH_FLAG_NEVER_FAST != 0),
            )?;
        }
        let log = lab.member(B).agent.log_tail();
        ensure!(!log.contains("somebody detached"), "{log}");
        Ok(())
    })
}

/// The daemon looks again at what it finds entered and has not seen, long before its next resync.
#[test]
fn what_is_entered_and_is_no_pod_is_taken_back() -> Result<()> {
    twill(Options::flags(&["--resync-interval", "600"]), |lab| {
        lab.on(B, "ip link add stray type veth peer name other")?;
        let instance = lab.member(B).agent.instance().parse()?;
        let enter = || -> Result<u32> {
            let stray = Interface {
                name: "stray".to_owned(),
                ifindex: if_nametoindex("stray")?,
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let bpffs = Path::new("/sys/fs/bpf");
                let pinned = Pinned::open(bpffs, &instance, SECONDS).await?;
                let mut pinned = pinned.context("nothing is pinned")?;
                anyhow::Ok(pinned.add_pod(&stray, VethUse::Fast).await?)
            })?;
            Ok(stray.ifindex)
        };
        let veth = lab.host(B).enter(enter)??;
        wait_until("the daemon takes it back", SECONDS, || {
            matches!(lab.flags(veth), Ok(None))
                && lab.pins_on(veth).is_ok_and(|pins| pins.is_empty())
        })
    })
}
