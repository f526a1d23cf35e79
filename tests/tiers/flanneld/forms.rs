//! Forms of input that Go takes: what a real flanneld starts with, Twill starts with.

use std::process::ExitStatus;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::daemon::Daemon;
use twill_testbed::flanneld::{self, subnet_file};
use twill_testbed::topology::Node;
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NODE_A, NODE_B};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};
use super::nodes::wait_route;

/// Both daemons, each on a node of its own.
struct Both {
    lab: Lab,
    theirs: Node,
    ours: Node,
}

/// How a start went.
#[derive(Debug)]
enum Start {
    /// It has a subnet.
    Subnet,
    /// It has ended.
    Ended(ExitStatus),
}

impl Both {
    fn new() -> Result<Self> {
        let lab = Lab::new(1, USUAL)?;
        let (theirs, ours) = (
            lab.underlay.join("a", NODE_A)?,
            lab.underlay.join("b", NODE_B)?,
        );
        Ok(Self { lab, theirs, ours })
    }

    /// A flanneld and an agent, and how they started.
    fn start(&self, endpoints: &str, flags: &[&str]) -> Result<(Start, Start)> {
        for node in [&self.theirs, &self.ours] {
            let written = subnet_file(node);
            if written.exists() {
                std::fs::remove_file(&written)?;
            }
        }
        let mut theirs = flanneld::spawn(&flanneld::program()?, &self.theirs, endpoints, flags)?;
        let mut agent = Agent::on_etcd(&self.ours, endpoints, flags);
        agent.start_again()?;
        let seen = (
            started(&mut theirs, &self.theirs).context("flanneld")?,
            started(agent.daemon()?, &self.ours).context("twilld")?,
        );
        theirs.kill()?;
        agent.kill()?;
        Ok(seen)
    }
}

fn started(daemon: &mut Daemon, node: &Node) -> Result<Start> {
    let written = subnet_file(node);
    let started = wait_for("a subnet or an end", PATIENCE, || {
        if written.exists() {
            return Ok(Some(Start::Subnet));
        }
        Ok(daemon.ended()?.map(Start::Ended))
    });
    started.with_context(|| daemon.log_tail())
}

#[test]
fn endpoints() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let both = Both::new()?;
    let etcd = both.lab.etcd.endpoints();
    let bare = etcd.trim_start_matches("http://");
    for form in [
        format!("{etcd},"),
        format!(",{etcd}"),
        format!("{etcd}, http://192.0.2.99:2379"),
        format!("{etcd},,ftp://192.0.2.99:1"),
        format!("{etcd}/v2?x=y"),
        format!("HTTP://{bare}"),
        bare.to_owned(),
    ] {
        let seen = both.start(&form, &[])?;
        let (Start::Subnet, Start::Subnet) = seen else {
            anyhow::bail!("{form:?}: {seen:?}");
        };
    }
    // What cannot be is said at once.
    for form in [format!("{etcd}\r"), format!("{etcd}\n")] {
        let seen = both.start(&form, &[])?;
        let (Start::Ended(theirs), Start::Ended(ours)) = seen else {
            anyhow::bail!("{form:?}: {seen:?}");
        };
        ensure!(!theirs.success() && !ours.success(), "{form:?}");
    }
    Ok(())
}

#[test]
fn flags_without_a_value() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let both = Both::new()?;
    let etcd = both.lab.etcd.endpoints();
    for flags in [
        ["--healthz-ip=", "--healthz-port=10245"].as_slice(),
        &["--iface="],
        &["--iface-regex=", "--iface-can-reach=", "--public-ip="],
        &["--etcd-username=", "--etcd-password=", "--etcd-cafile="],
        &["--net-config-path=", "--kube-annotation-prefix="],
    ] {
        let seen = both.start(&etcd, flags)?;
        let (Start::Subnet, Start::Subnet) = seen else {
            anyhow::bail!("{flags:?}: {seen:?}");
        };
    }
    Ok(())
}

/// An entry of the list that names no interface is the default route's, at its place.
#[test]
fn an_empty_iface_before_another_is_the_default_route() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let both = Both::new()?;
    let etcd = both.lab.etcd.endpoints();
    let add = "ip link add eth9 type bridge
         ip addr add 198.51.100.9/24 dev eth9
         ip link set eth9 up
         ip route replace default via 192.0.2.254 dev eth0";
    for node in [&both.theirs, &both.ours] {
        node.namespace().run_lines(add)?;
    }
    let flanneld = flanneld::program()?;
    let flags = ["--iface=", "--iface=eth9"];
    // Without the testbed's own --iface, which comes first.
    let mut command = std::process::Command::new(flanneld);
    command
        .arg(format!("--etcd-endpoints={etcd}"))
        .arg(format!(
            "--subnet-file={}",
            subnet_file(&both.theirs).display()
        ))
        .args(flags);
    let log = both.theirs.directory().join("flanneld.log");
    let mut theirs = Daemon::start(both.theirs.namespace(), command, &log)?;
    started(&mut theirs, &both.theirs)?;
    let mut agent = Agent::on_etcd(&both.ours, &etcd, &flags);
    agent.set_iface(None);
    agent.start_again()?;
    started(agent.daemon()?, &both.ours)?;
    let leases = both.lab.etcd.leases()?;
    for address in [NODE_A, NODE_B] {
        let quoted = format!("\"{address}\"");
        ensure!(
            leases.iter().any(|(_, value)| value.contains(&quoted)),
            "no {address}: {leases:?}"
        );
    }
    theirs.kill()?;
    agent.kill()
}

/// Leases as people and other programs write them.
#[test]
fn leases() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let both = Both::new()?;
    let etcd = both.lab.etcd.endpoints();
    let forms = [
        (202, r#"{"VtepMAC":"02-00-5e-10-00-02"}"#),
        (203, r#"{"VtepMAC":"0200.5e10.0003"}"#),
        (204, r#"{"vtepmac":"02:00:5e:10:00:04"}"#),
        (205, r#"{"VNI":null,"VTEPMAC":"02:00:5E:10:00:05"}"#),
        (
            206,
            r#"{"VtepMAC":"02:00:5e:10:00:99","vtepmac":"02:00:5e:10:00:06"}"#,
        ),
        (
            207,
            r#"{"vtepmac":"02:00:5e:10:00:98","VtepMAC":"02:00:5e:10:00:07"}"#,
        ),
    ];
    for (n, data) in forms {
        let value = format!(
            r#"{{"publicip":"192.0.2.250","PublicIP":"192.0.2.{n}","backendtype":"vxlan","BACKENDDATA":{data}}}"#
        );
        both.lab.put(&format!("10.244.{n}.0-24"), &value)?;
    }
    let mut theirs = flanneld::spawn(&flanneld::program()?, &both.theirs, &etcd, &[])?;
    let mut agent = Agent::on_etcd(&both.ours, &etcd, &[]);
    agent.start_again()?;
    started(&mut theirs, &both.theirs)?;
    started(agent.daemon()?, &both.ours)?;
    for node in [&both.theirs, &both.ours] {
        for (n, _) in forms {
            wait_route(node, &format!("10.244.{n}.0/24"), true)?;
        }
    }
    // To the same MAC addresses at the same places.
    let entries = |node: &Node| -> Result<Vec<String>> {
        let text = node
            .namespace()
            .run(&["bridge", "fdb", "show", "dev", "flannel.1"])?;
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| line.contains("02:00:5e:10:00"))
            .map(|line| line.trim().to_owned())
            .collect();
        lines.sort();
        Ok(lines)
    };
    wait_for("the entries are the same", PATIENCE, || {
        let (theirs, ours) = (entries(&both.theirs)?, entries(&both.ours)?);
        ensure!(theirs == ours, "flanneld: {theirs:#?}\nTwill: {ours:#?}");
        ensure!(ours.len() == forms.len(), "{ours:?}");
        Ok(Some(()))
    })?;
    theirs.kill()?;
    agent.kill()
}
