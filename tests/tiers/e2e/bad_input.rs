//! What an operator or a lease server may get wrong: each is answered with the key, the value,
//! and what would be right, and once it is right the daemon goes on.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use twill_testbed::agent::Agent;
use twill_testbed::daemon::{Daemon, binary};
use twill_testbed::directory::Directory;
use twill_testbed::lease_server::LeaseServer;
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::topology::{Node, Underlay};
use twill_testbed::wait::wait_for;
use twill_testbed::world::{LEASE_SERVER, NODE_A, UPLINK};
use twill_tests::required;

use super::impostor::{Impostor, PORT, answer};

const PATIENCE: Duration = Duration::from_secs(20);

/// A `net-conf.json` that is wrong, and words that the error must have: key, value, and what
/// would be right.
const CONFIGS: [(&str, &[&str]); 8] = [
    ("{\"Network\":", &["JSON object", "line 1 column 11"]),
    ("[]", &["JSON object"]),
    (
        r#"{"Network":"10.244.0.0/29","Backend":{"Type":"vxlan"}}"#,
        &["Network", "10.244.0.0/29", "/28"],
    ),
    (
        r#"{"Network":"10.244.0.0/16","SubnetMin":"10.245.0.0","Backend":{"Type":"vxlan"}}"#,
        &["SubnetMin", "10.245.0.0", "/24 in 10.244.0.0/16"],
    ),
    (
        r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#,
        &["Backend.VNI", "16777216", "0 to 16777215"],
    ),
    (
        r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","Port":65536}}"#,
        &["Backend.Port", "65536", "1 to 65535"],
    ),
    (
        r#"{"Network":"10.244.0.0/16","Backend":{"Type":"ipip"}}"#,
        &["Backend.Type", "ipip", r#""Type": "vxlan""#],
    ),
    (
        r#"{"Network":"10.244.0.0/16"}"#,
        &["Backend", "udp", r#""Type": "vxlan""#],
    ),
];

const GOOD: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

fn ensure_tells(text: &str, words: &[&str]) -> Result<()> {
    // A log escapes the quotes in a value.
    let text = text.replace("\\\"", "\"");
    for word in words {
        ensure!(text.contains(word), "no word of {word:?}: {text}");
    }
    ensure!(!text.contains("panicked"), "{text}");
    Ok(())
}

/// What the agent says is wrong with its lease store.
fn store_state(agent: &Agent) -> Result<String> {
    let status = agent.status()?;
    let state = status["status"]["store"]["state"].as_str();
    Ok(state.unwrap_or_default().to_owned())
}

/// Waits until one of the agent's complaints has all these words.
fn wait_complaint(agent: &mut Agent, words: &[&str]) -> Result<()> {
    let mut last = String::new();
    let complains = wait_for("the agent says what is wrong", PATIENCE, || {
        let status = agent.status()?;
        last = status["status"].to_string().replace("\\\"", "\"");
        Ok(words.iter().all(|word| last.contains(word)).then_some(()))
    });
    complains.with_context(|| format!("{words:?} is not in {last}\n{}", agent.log_tail()))?;
    ensure!(agent.daemon()?.ended()?.is_none(), "the daemon ended");
    // The log follows the status by a moment.
    wait_for("the log says it too", PATIENCE, || {
        ensure_tells(&agent.log_tail(), words).map(Some)
    })
}

#[test]
fn the_lease_server_refuses_a_config_that_cannot_be() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let prefix = Prefix::unique();
    let host = Namespace::under(&prefix, "serve")?;
    let directory = Directory::new(host.name())?;
    let config = directory.join("net-conf.json");
    for (text, words) in CONFIGS {
        fs::write(&config, text)?;
        let mut command = Command::new(binary("twilld")?);
        command
            .arg("serve")
            .arg("--network-config")
            .arg(&config)
            .arg("--data-dir")
            .arg(directory.join("data"));
        let output = host.enter(|| command.output())??;
        assert_eq!(output.status.code(), Some(1), "{text}");
        let said = String::from_utf8_lossy(&output.stderr);
        ensure_tells(&said, words).with_context(|| text.to_owned())?;
        ensure_tells(&said, &["net-conf.json"])?;
    }
    Ok(())
}

#[test]
fn an_agent_waits_for_a_config_that_can_be() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let host = underlay.join("leases", LEASE_SERVER)?;
    let impostor = Impostor::start(host.namespace(), |asked| {
        let number = asked
            .path
            .split('/')
            .nth(1)
            .and_then(|part| part.parse().ok());
        let (config, _) = CONFIGS.get(number.unwrap_or(usize::MAX))?;
        Some(answer("200 OK", config))
    })?;
    let mut agents = Vec::new();
    for number in 0..CONFIGS.len() {
        let address = NODE_A.to_bits() + u32::try_from(number)? + 20;
        let node = underlay.join(&format!("n{number}"), address.into())?;
        let url = format!("http://{LEASE_SERVER}:{PORT}/{number}");
        let mut agent = Agent::new(&node, &url, &[]);
        agent.start_again()?;
        agents.push((agent, node));
    }
    for ((agent, node), (text, words)) in agents.iter_mut().zip(CONFIGS) {
        wait_complaint(agent, words).with_context(|| text.to_owned())?;
        ensure_untouched(node)?;
        assert!(!agent.subnet_file().exists());
    }
    drop(impostor);

    // Once it is right, the first of them goes on, without a start.
    let (mut agent, node) = agents.swap_remove(0);
    drop(agents);
    let _healed = Impostor::start(host.namespace(), |asked| {
        asked
            .path
            .ends_with("/config")
            .then(|| answer("200 OK", GOOD))
    })?;
    wait_for("the agent makes its device", PATIENCE, || {
        agent.daemon()?;
        Ok(node.namespace().link_json("flannel.1").ok())
    })?;
    Ok(())
}

/// Nothing of ours is there yet.
fn ensure_untouched(node: &Node) -> Result<()> {
    let links = node.namespace().run(&["ip", "-brief", "link"])?;
    ensure!(!links.contains("flannel"), "{links}");
    Ok(())
}

#[test]
fn a_lease_outside_the_network_is_not_used() -> Result<()> {
    if !required() {
        return Ok(());
    }
    for subnet in [
        "10.245.3.0/24",
        "10.244.3.0/25",
        "10.244.0.0/24",
        "10.244.3.1/24",
    ] {
        let underlay = Underlay::new()?;
        let mut server = LeaseServer::start(&underlay)?;
        server.kill()?;
        let impostor = Impostor::start(server.host().namespace(), move |asked| {
            let lease = json!({
                "subnet": subnet,
                "attrs": {"PublicIP": NODE_A, "BackendType": "vxlan",
                    "BackendData": {"VNI": 1, "VtepMAC": "02:00:00:00:00:0a"}},
                "ttl_seconds": 86400,
            });
            Some(match asked.method {
                "POST" => answer("200 OK", &lease.to_string()),
                _ => answer("200 OK", GOOD),
            })
        })?;
        let node = underlay.join("a", NODE_A)?;
        let mut agent = Agent::new(&node, &server.url(), &[]);
        agent.start_again()?;
        wait_complaint(&mut agent, &[subnet]).with_context(|| subnet.to_owned())?;
        assert!(!agent.subnet_file().exists(), "{subnet}");
        let addresses = node.namespace().run(&["ip", "addr", "show", "flannel.1"])?;
        ensure!(!addresses.contains("inet 10."), "{addresses}");
        drop(impostor);
        server.start_again()?;
        let env = agent.wait_ready()?;
        ensure!(env.prefix().to_string().starts_with("10.244."), "{env:?}");
    }
    Ok(())
}

#[test]
fn a_vni_that_another_device_uses_is_told_and_taken_when_free() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let server = LeaseServer::start(&underlay)?;
    let node = underlay.join("a", NODE_A)?;
    node.namespace().run_lines(&format!(
        "ip link add vx9 type vxlan id 1 dev {UPLINK} dstport 8472
         ip link set vx9 up"
    ))?;
    let before = node.namespace().run(&["ip", "-d", "link", "show", "vx9"])?;
    let mut agent = Agent::new(&node, &server.url(), &[]);
    agent.start_again()?;
    wait_complaint(
        &mut agent,
        &["VNI 1", "port 8472", "vx9", "set another VNI or Port"],
    )?;
    let after = node.namespace().run(&["ip", "-d", "link", "show", "vx9"])?;
    assert_eq!(before, after, "not ours");
    node.namespace().run(&["ip", "link", "del", "vx9"])?;
    agent.wait_ready().map(drop)
}

#[test]
fn an_interface_that_is_not_there_is_named_with_those_that_are() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let server = LeaseServer::start(&underlay)?;
    let node = underlay.join("a", NODE_A)?;
    // flannel's own words, for either case.
    let named =
        "Failed to find interface to use that matches the interfaces and/or regexes provided";
    let found = "Failed to find any valid interface to use";
    for (flag, value, words) in [
        ("--iface", "eth7", [named, "no interface \"eth7\"", UPLINK]),
        ("--iface", "192.0.2.77", [named, "192.0.2.77", "192.0.2.1"]),
        (
            "--iface",
            "lo",
            [named, "lo is the loopback", "other nodes"],
        ),
        (
            "--public-ip",
            "192.0.2.77",
            [found, "192.0.2.77", "192.0.2.1"],
        ),
    ] {
        let mut command = Command::new(binary("twilld")?);
        command
            .args(["--lease-server", &server.url(), flag, value])
            .args(["--instance", node.namespace().name()])
            .arg("--run-dir")
            .arg(node.directory().join("run"))
            .arg("--state-dir")
            .arg(node.directory().join("state"))
            .arg("--subnet-file")
            .arg(node.directory().join("subnet.env"));
        let log = node.directory().join(&format!("{value}.log"));
        let mut daemon = Daemon::start(node.namespace(), command, &log)?;
        let status = wait_for("it gives up", PATIENCE, || daemon.ended())?;
        assert_eq!(status.code(), Some(1), "{flag} {value}");
        ensure_tells(&daemon.log_tail(), &words).with_context(|| format!("{flag} {value}"))?;
        ensure_untouched(&node)?;
    }
    Ok(())
}

#[test]
fn gbp_leaves_packets_to_the_kernel_and_says_so() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let config = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","GBP":true}}"#;
    let server = LeaseServer::start_with(&underlay, config)?;
    let node = underlay.join("a", NODE_A)?;
    let mut agent = Agent::start(&node, &server.url())?;
    let status = agent.status()?;
    let said = &status["status"];
    assert_eq!(said["mode"], "kernel", "{said}");
    ensure_tells(
        said["reason"].as_str().unwrap_or_default(),
        &["Backend.GBP is true"],
    )?;
    assert_eq!(said["attached"], json!([]));
    let link = node.namespace().link_json("flannel.1")?;
    assert_eq!(link["linkinfo"]["info_data"]["gbp"], json!(true), "{link}");
    ensure!(store_state(&agent)?.contains("connected"));
    agent.stop().map(drop)
}
