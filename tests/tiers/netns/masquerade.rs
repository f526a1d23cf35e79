//! `--ip-masq`: what leaves the overlay goes out under the node's address, what stays in it keeps
//! its own and may be fast.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::cluster::Cluster;
use twill_testbed::netns::Prefix;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::traffic::{EchoServer, tcp_echo};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B};
use twill_tests::required;

/// "Within seconds", with room for a busy machine.
const SECONDS: Duration = Duration::from_secs(15);

#[test]
fn the_overlay_keeps_its_addresses_and_the_rules_come_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    for (label, address) in [("a", NODE_A), ("b", NODE_B)] {
        let flags = ["--ip-masq", "--resync-interval", "1"];
        let member = cluster.add_node_with(label, address, &flags)?;
        // As CNI plugins read it, not as the testbed would have it.
        member.env = member.agent.subnet_env()?;
        ensure!(member.env.ip_masq, "subnet.env says {:?}", member.env);
        member.add_pod("pod")?;
    }
    cluster.wait_mesh()?;
    let (a, b) = (&cluster.members[0], &cluster.members[1]);
    let from = a.pods[0].namespace();
    let to = b.pods[0].address();
    let _server = EchoServer::start(b.pods[0].namespace())?;

    let fast = || -> Result<u64> { a.agent.counters()?.packets("from_pod", "fast") };
    wait_until("pod to pod is fast", SECONDS, || {
        tcp_echo(from, to, 1 << 20).is_ok() && fast().is_ok_and(|packets| packets > 0)
    })?;

    let node = a.node.namespace();
    let golden = expected(&a.env.prefix().to_string());
    let listed = || node.run(&["nft", "list", "table", "ip", "flannel-ipv4"]);
    ensure!(
        listed()? == golden,
        "found\n{}\nexpected\n{golden}",
        listed()?
    );
    node.run(&["nft", "delete", "table", "ip", "flannel-ipv4"])?;
    wait_until("the table is back", SECONDS, || {
        listed().is_ok_and(|text| text == golden)
    })?;
    let text = fs::read_to_string(a.agent.subnet_file())?;
    ensure!(text.ends_with("FLANNEL_IPMASQ=true\n"), "{text}");
    Ok(())
}

/// What flannel's own end-to-end tests want `nft` to print (flannel 0.28.9, `e2e/`), comments
/// aside: `nft` takes them from JSON in later versions only.
fn expected(own: &str) -> String {
    let network = "10.244.0.0/16";
    format!(
        "table ip flannel-ipv4 {{
\tchain postrtg {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tmeta mark 0x00004000 return
\t\tip saddr {own} ip daddr {network} return
\t\tip saddr {network} ip daddr {own} return
\t\tip saddr != {own} ip daddr {network} return
\t\tip saddr {network} ip daddr != 224.0.0.0/4 masquerade fully-random
\t\tip saddr != {network} ip daddr {network} masquerade fully-random
\t}}

\tchain forward {{
\t\ttype filter hook forward priority filter; policy accept;
\t\tip saddr {network} accept
\t\tip daddr {network} accept
\t}}
}}
"
    )
}
