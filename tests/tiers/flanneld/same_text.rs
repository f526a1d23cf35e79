//! What a real flanneld writes, and what Twill writes in its place: `subnet.env`, keys and
//! values in etcd, masquerade and forward rules, text for text.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::flanneld::{Flanneld, subnet_file};
use twill_testbed::topology::Node;
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::{NODE_A, NODE_B, UPLINK};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};
use super::member::{Kind, Member};

const ODD_SIZES: &str = r#"{"Network":"10.5.0.0/16","SubnetLen":26,"SubnetMin":"10.5.10.0",
    "SubnetMax":"10.5.99.192","Backend":{"Type":"vxlan","VNI":7,"Port":4789,"MTU":1400}}"#;
const ODD_SPELLING: &str =
    r#"{"network":"172.16.3.4/12","other":1,"BACKEND":{"type":"VXLAN","gbp":true}}"#;
const NFTABLES: &str =
    r#"{"Network":"10.244.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;

/// What is compared.
#[derive(Debug, Eq, PartialEq)]
struct Written {
    subnet_env: String,
    leases: Vec<(String, String)>,
    iptables: Vec<String>,
    nftables: String,
}

impl Written {
    fn read(lab: &Lab, node: &Node) -> Result<Self> {
        let path = subnet_file(node);
        let saved = node.namespace().run(&["iptables-save"])?;
        // Comments have the time in them, chains count packets.
        let rules = saved.lines().filter(|line| !line.starts_with('#'));
        let rules = rules.map(|line| line.split(" [").next().unwrap_or(line).to_owned());
        let table = ["nft", "list", "table", "ip", "flannel-ipv4"];
        Ok(Self {
            subnet_env: fs::read_to_string(&path)
                .with_context(|| format!("read {}", path.display()))?,
            leases: lab.etcd.leases()?,
            iptables: rules.collect(),
            nftables: node.namespace().run(&table).unwrap_or_default(),
        })
    }

    /// Takes it all away but the device and the subnet's name, so that who comes next writes it.
    fn remove(&self, lab: &Lab, node: &Node) -> Result<()> {
        for (key, _) in &self.leases {
            lab.delete(key)?;
        }
        let lines = self.subnet_env.lines();
        let subnet: String = lines
            .filter(|line| line.starts_with("FLANNEL_SUBNET="))
            .collect();
        fs::write(subnet_file(node), subnet)?;
        node.namespace().run_lines(
            "iptables -t nat -F
             iptables -t nat -X
             iptables -F
             iptables -X",
        )?;
        if !self.nftables.is_empty() {
            let delete = ["nft", "delete", "table", "ip", "flannel-ipv4"];
            node.namespace().run(&delete)?;
        }
        Ok(())
    }
}

/// Both on one node, one after the other, with the same config and the same flags.
fn check(config: &str, flags: &[&str]) -> Result<()> {
    let lab = Lab::new(1, config)?;
    let node = lab.underlay.join("a", NODE_A)?;
    let mut agent = Agent::on_etcd(&node, &lab.etcd.endpoints(), flags);
    agent.start_again()?;
    agent.wait_ready_for(PATIENCE)?;
    let ours = Written::read(&lab, &node)?;
    ensure!(agent.stop()?.success());
    ours.remove(&lab, &node)?;

    let flanneld = Flanneld::start(&node, &lab.etcd.endpoints(), flags)?;
    // It writes its rules beside everything else.
    wait_for("flanneld has written the same", PATIENCE, || {
        let theirs = Written::read(&lab, &node)?;
        ensure!(theirs == ours, "flanneld: {theirs:#?}\nTwill: {ours:#?}");
        Ok(Some(()))
    })
    .with_context(|| format!("{config} {flags:?}"))?;
    flanneld.stop()
}

/// Lines of the log that scripts wait for.
#[test]
fn in_the_log() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    for (kind, label, address, log) in [
        (Kind::Flanneld, "a", NODE_A, "flanneld.log"),
        (Kind::Twill, "b", NODE_B, "twilld.log"),
    ] {
        let mut member = Member::new(&lab, label, address)?;
        member.start(kind)?;
        let log = member.node.directory().join(log);
        let subnet_file = subnet_file(&member.node);
        for words in [
            "CLI flags config",
            "no certificate provided: connecting to etcd with http. This is insecure",
            "Found network config - Backend type: vxlan",
            &format!("Using interface with name {UPLINK} and address {address}"),
            &format!("Defaulting external address to interface address ({address})"),
            "VXLAN config: VNI=1 Port=0 GBP=false Learning=false DirectRouting=false",
            "Picking subnet in range 10.244.1.0 ... 10.244.255.0",
            &format!("Wrote subnet file to {}", subnet_file.display()),
            "flannel is ready",
            "Running backend.",
            "to renew lease",
        ] {
            wait_until(&format!("{kind:?} says {words}"), PATIENCE, || {
                fs::read_to_string(&log).is_ok_and(|said| said.contains(words))
            })?;
        }
        member.stop()?;
        // A flanneld that does not end by itself does not get to say so.
        let said = fs::read_to_string(&log)?;
        ensure!(
            kind == Kind::Flanneld || said.contains("Exiting cleanly..."),
            "{said}"
        );
    }
    Ok(())
}

/// A minute after the start with the greatest margin.
#[test]
fn in_the_log_when_the_lease_is_renewed() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let (a, b) = (
        lab.underlay.join("a", NODE_A)?,
        lab.underlay.join("b", NODE_B)?,
    );
    let flags = ["-subnet-lease-renew-margin=1439"];
    let flanneld = Flanneld::start(&a, &lab.etcd.endpoints(), &flags)?;
    let mut agent = Agent::on_etcd(&b, &lab.etcd.endpoints(), &flags);
    agent.start_again()?;
    for log in [
        b.directory().join("twilld.log"),
        a.directory().join("flanneld.log"),
    ] {
        wait_until("the lease is renewed", 3 * PATIENCE, || {
            fs::read_to_string(&log)
                .is_ok_and(|said| said.contains("Lease renewed, new expiration"))
        })?;
    }
    flanneld.stop()
}

#[test]
fn by_iptables() -> Result<()> {
    if !required() {
        return Ok(());
    }
    check(USUAL, &["--ip-masq"])?;
    check(ODD_SIZES, &[])?;
    check(
        ODD_SPELLING,
        &["--ip-masq", "--ip-masq-fully-random-disable"],
    )?;
    check(ODD_SIZES, &["--ip-masq", "--iptables-forward-rules=false"])
}

#[test]
fn by_nftables() -> Result<()> {
    if !required() {
        return Ok(());
    }
    check(NFTABLES, &["--ip-masq"])?;
    check(NFTABLES, &["--ip-masq", "--ip-masq-fully-random-disable"])?;
    check(NFTABLES, &["--iptables-forward-rules=false", "--ip-masq"])?;
    check(NFTABLES, &[])
}
