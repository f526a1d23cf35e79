//! Files and routes that others on the host read: `subnet.env`, Docker's options, the blackhole
//! route.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::cluster::Cluster;
use twill_testbed::daemon::binary;
use twill_testbed::netns::Prefix;
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::traffic::ping;
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NETWORK, NODE_A};
use twill_tests::required;

/// "Within seconds", with room for a busy machine.
const SECONDS: Duration = Duration::from_secs(15);

#[test]
fn subnet_env_is_flannel_s_to_the_byte_and_comes_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let flags = ["--resync-interval=1", "-ip-masq=true"];
    let mut agent = Agent::new(&node, &cluster.lease_server.url(), &flags);
    agent.start_again()?;
    let env = agent.wait_ready()?;
    let path = agent.subnet_file();
    let text = fs::read_to_string(&path)?;
    let expected = format!(
        "FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET={}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        env.subnet
    );
    ensure!(text == expected, "{text:?} instead of {expected:?}");
    ensure!(
        fs::metadata(&path)?.permissions().mode() & 0o777 == 0o644,
        "mode"
    );
    let is_back = || fs::read_to_string(&path).is_ok_and(|text| text == expected);
    fs::remove_file(&path)?;
    wait_until("the file that was removed is back", SECONDS, is_back)?;
    fs::write(&path, "FLANNEL_SUBNET=10.9.9.1/24\n")?;
    wait_until("the file that was changed is back", SECONDS, is_back)
}

fn mk_docker_opts(node: &Node, agent: &Agent, words: &[&str]) -> Result<(i32, String, String)> {
    let path = node.directory().join("docker_opts.env");
    let mut command = Command::new(binary("twilld")?);
    command
        .arg("mk-docker-opts")
        .arg("-f")
        .arg(agent.subnet_file())
        .arg("-d")
        .arg(&path)
        .args(words);
    let output = node.namespace().enter(|| command.output())??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = fs::read_to_string(&path).unwrap_or_default();
    Ok((output.status.code().unwrap_or(-1), text, said))
}

#[test]
fn docker_s_options_are_those_of_the_script() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let mut agent = Agent::start(&node, &cluster.lease_server.url())?;
    let bridge = agent.subnet_env()?.subnet;
    let options = format!("--bip={bridge} --ip-masq=true --mtu=1450");
    let (code, text, said) =
        mk_docker_opts(&node, &agent, &["-k", "DOCKER_NETWORK_OPTIONS", "-c"])?;
    ensure!(code == 0, "{said}");
    ensure!(
        text == format!("DOCKER_NETWORK_OPTIONS=\" {options}\"\n"),
        "{text}"
    );
    let (code, text, said) = mk_docker_opts(&node, &agent, &["-mi"])?;
    ensure!(code == 0, "{said}");
    ensure!(
        text == format!("DOCKER_OPT_BIP=\"--bip={bridge}\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n"),
        "{text}"
    );
    // Another node is thought to have the subnet.
    let subnet = agent.subnet_env()?.prefix().to_string();
    let route = ["ip", "route", "add", &subnet, "via", "192.0.2.254"];
    node.namespace().run(&route)?;
    let (code, _, said) = mk_docker_opts(&node, &agent, &[])?;
    ensure!(code == 1, "exit code {code}");
    ensure!(
        said.contains("Your routing table already contains the subnet"),
        "{said}"
    );
    agent.stop()?;
    fs::remove_file(agent.subnet_file())?;
    let (code, _, said) = mk_docker_opts(&node, &agent, &[])?;
    ensure!(code == 1 && said.contains("subnet.env"), "{code}: {said}");
    Ok(())
}

#[test]
fn a_blackhole_takes_what_no_pod_does_and_nothing_else() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let flags = ["-ip-blackhole-route", "--resync-interval=1"];
    let member = cluster.add_node_with("a", NODE_A, &flags)?;
    let subnet = member.env.prefix();
    let node = Arc::clone(member.node.namespace());
    let shown = || node.run(&["ip", "route", "show", "type", "blackhole"]);
    let line = format!("blackhole {subnet} metric 4294967295");
    let is_there = || shown().is_ok_and(|text| text.lines().any(|it| it.trim() == line));
    wait_until("the route is there", SECONDS, is_there)?;
    let delete = format!("ip route del {line}");
    node.run(&delete.split_whitespace().collect::<Vec<_>>())?;
    wait_until("the route is back", SECONDS, is_there)?;
    let routes = shown()?;
    ensure!(routes.lines().count() == 1, "{routes}");
    // The bridge comes after the blackhole, and is the way to the pod.
    let pod = member.add_pod("1")?.address();
    ping(&node, pod, 100)?;
    Ok(())
}
