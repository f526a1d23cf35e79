//! Flannel's masquerade and forward rules, by iptables of both kinds and by nftables: what leaves
//! the overlay goes out under the node's address, what stays in it keeps its own and may be fast.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use twill_testbed::agent::Agent;
use twill_testbed::cluster::Cluster;
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::traffic::{EchoServer, ping, tcp_echo};
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::{NETWORK, NODE_A, NODE_B, PORT, VNI};
use twill_tests::required;

/// "Within seconds", with room for a busy machine.
const SECONDS: Duration = Duration::from_secs(15);
const NODES: [(&str, std::net::Ipv4Addr); 2] = [("a", NODE_A), ("b", NODE_B)];
const FLAGS: [&str; 2] = ["--ip-masq", "--iptables-resync=1"];

/// A network whose nodes have their rules in nftables.
fn by_nftables() -> Value {
    json!({
        "Network": NETWORK,
        "EnableNFTables": true,
        "Backend": { "Type": "vxlan", "VNI": VNI, "Port": PORT },
    })
}

#[test]
fn by_nftables_the_overlay_keeps_its_addresses_and_the_rules_come_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let config = by_nftables();
    let mut cluster = Cluster::with_config(
        Prefix::unique(),
        UnderlayOptions::default(),
        &config.to_string(),
    )?;
    for (label, address) in NODES {
        let member = cluster.add_node_with(label, address, &FLAGS)?;
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
    // Nobody out there knows the way to a pod.
    ping(from, cluster.lease_server.address(), 100)?;

    let node = a.node.namespace();
    let golden = golden_table(&a.env.prefix().to_string());
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

#[test]
fn by_iptables_of_the_nf_tables_kind() -> Result<()> {
    by_iptables("nft")
}

#[test]
fn by_iptables_of_the_legacy_kind() -> Result<()> {
    by_iptables("legacy")
}

fn by_iptables(kind: &str) -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    for (label, address) in NODES {
        let node = cluster.underlay.join(label, address)?;
        let mut agent = Agent::new(&node, &cluster.lease_server.url(), &FLAGS);
        agent.set_programs(&programs(&node, kind)?);
        // Of the other mode, as an operator leaves it who tried both.
        let leftover = ["nft", "add", "table", "ip", "flannel-ipv4"];
        node.namespace().run(&leftover)?;
        cluster.add_prepared(node, agent)?.add_pod("pod")?;
    }
    cluster.wait_mesh()?;
    let member = &cluster.members[0];
    let (own, node) = (member.env.prefix().to_string(), member.node.namespace());
    let from = member.pods[0].namespace();
    ping(from, cluster.members[1].pods[0].address(), 100)?;
    ping(from, cluster.lease_server.address(), 100)?;
    ensure!(
        node.run(&["nft", "list", "table", "ip", "flannel-ipv4"])
            .is_err(),
        "the other mode's table is still there"
    );

    let iptables = Iptables { node, kind };
    iptables.expect(&own, " --random-fully")?;
    // Somebody else's rules stay, before ours and after them.
    iptables.run(&["-A", "POSTROUTING", "-s", "203.0.113.1/32", "-j", "ACCEPT"])?;
    for meddling in [
        &["-F", "FLANNEL-POSTRTG"][..],
        &["-D", "FLANNEL-POSTRTG", "3"],
        &["-I", "FLANNEL-POSTRTG", "-j", "RETURN"],
        &[
            "-D",
            "POSTROUTING",
            "-m",
            "comment",
            "--comment",
            "flanneld masq",
            "-j",
            "FLANNEL-POSTRTG",
        ],
        &[
            "-A",
            "POSTROUTING",
            "-m",
            "comment",
            "--comment",
            "flanneld masq",
            "-j",
            "FLANNEL-POSTRTG",
        ],
    ] {
        iptables.run(meddling)?;
        wait_until(&format!("{meddling:?} is made good"), SECONDS, || {
            iptables.expect(&own, " --random-fully").is_ok()
        })?;
        ensure!(
            iptables
                .run(&["-S", "POSTROUTING"])?
                .contains("203.0.113.1/32"),
            "somebody else's rule is gone after {meddling:?}"
        );
    }
    replaced_without_a_moment_without(&mut cluster, kind, &own)
}

/// Somebody takes a rule away right after ours were written for the first time, before the agent
/// has looked at them: it must not take what is left for what it wrote.
#[test]
fn what_is_changed_before_it_is_read_back_is_made_good() -> Result<()> {
    if !required() {
        return Ok(());
    }
    for (kind, nftables) in [("nft", true), ("nft", false), ("legacy", false)] {
        let config = json!({
            "Network": NETWORK,
            "EnableNFTables": nftables,
            "Backend": { "Type": "vxlan", "VNI": VNI, "Port": PORT },
        });
        let (prefix, options) = (Prefix::unique(), UnderlayOptions::default());
        let cluster = Cluster::with_config(prefix, options, &config.to_string())?;
        let node = cluster.underlay.join("a", NODE_A)?;
        let folder = programs(&node, kind)?;
        let (program, theirs, what) = if nftables {
            let rules = "flush chain ip flannel-ipv4 postrtg";
            ("nft", "nft".to_owned(), format!("nft {rules}"))
        } else {
            let theirs = format!("iptables-{kind}-restore");
            let rule = "--wait -t nat -D FLANNEL-POSTRTG 3";
            (
                "iptables-restore",
                theirs,
                format!("iptables-{kind} {rule}"),
            )
        };
        let once = folder.join("once");
        let script = format!(
            "#!/bin/sh\n/usr/sbin/{theirs} \"$@\" || exit\n\
             [ -e {once} ] || ! /usr/sbin/{what} 2>/dev/null || : >{once}\n",
            once = once.display()
        );
        let program = folder.join(program);
        if program.exists() {
            fs::remove_file(&program)?;
        }
        write_program(&program, &script)?;
        let mut agent = Agent::new(&node, &cluster.lease_server.url(), &FLAGS);
        agent.set_programs(&folder);
        agent.start_again()?;
        let own = agent.wait_ready_for(2 * SECONDS)?.prefix().to_string();
        let node = node.namespace();
        let golden = golden_table(&own);
        let good = || -> Result<()> {
            if nftables {
                let found = node.run(&["nft", "list", "table", "ip", "flannel-ipv4"])?;
                ensure!(found == golden, "{found}");
                return Ok(());
            }
            Iptables { node, kind }.expect(&own, " --random-fully")
        };
        wait_until(&format!("{what} is made good"), SECONDS, || good().is_ok())?;
        ensure!(once.exists(), "nobody changed anything");

        // The same change, and again as soon as it was made good.
        fs::remove_file(&once)?;
        node.run(&what.split(' ').collect::<Vec<_>>())?;
        wait_until(&format!("{what} is made good twice"), SECONDS, || {
            once.exists() && good().is_ok()
        })?;
    }
    Ok(())
}

/// Nobody has said what the rules are to be written with: kube-proxy's tool is theirs, and goes on
/// to be when kube-proxy is away.
#[test]
fn without_a_word_the_rules_are_of_kube_proxys_kind() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let mut agent = Agent::new(&node, &cluster.lease_server.url(), &FLAGS);
    agent.set_programs(&programs(&node, "nft")?);
    let namespace = node.namespace();
    namespace.run_lines("nft add table ip kube-proxy")?;
    agent.start_again()?;
    let own = agent.wait_ready_for(2 * SECONDS)?.prefix().to_string();
    let iptables = Iptables {
        node: namespace,
        kind: "nft",
    };
    let table = ["nft", "list", "table", "ip", "flannel-ipv4"];
    ensure!(namespace.run(&table)? == golden_table(&own));
    ensure!(!iptables.run(&["-S"])?.contains("FLANNEL"));

    // It is started again in another mode, and later in the first one.
    namespace.run_lines("nft delete table ip kube-proxy")?;
    iptables.run(&["-N", "KUBE-MARK-MASQ"])?;
    let chains = || iptables.expect(&own, " --random-fully");
    wait_until("rules of iptables", 2 * SECONDS, || chains().is_ok())?;
    wait_until("the table is gone", SECONDS, || {
        namespace.run(&table).is_err()
    })?;
    iptables.run(&["-X", "KUBE-MARK-MASQ"])?;
    namespace.run_lines("nft add table ip6 kube-proxy")?;
    wait_until("rules of nftables", 2 * SECONDS, || {
        namespace
            .run(&table)
            .is_ok_and(|found| found == golden_table(&own))
    })?;
    wait_until("the chains are gone", SECONDS, || {
        iptables
            .run(&["-S"])
            .is_ok_and(|left| !left.contains("FLANNEL"))
    })
}

/// Told no, it is no.
#[test]
fn a_word_is_worth_more_than_kube_proxys_kind() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut config = by_nftables();
    config["EnableNFTables"] = false.into();
    let (prefix, options) = (Prefix::unique(), UnderlayOptions::default());
    let cluster = Cluster::with_config(prefix, options, &config.to_string())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let mut agent = Agent::new(&node, &cluster.lease_server.url(), &FLAGS);
    agent.set_programs(&programs(&node, "nft")?);
    node.namespace().run_lines("nft add table ip kube-proxy")?;
    agent.start_again()?;
    let own = agent.wait_ready_for(2 * SECONDS)?.prefix().to_string();
    let iptables = Iptables {
        node: node.namespace(),
        kind: "nft",
    };
    iptables.expect(&own, " --random-fully")
}

/// As a node has it where `EnableNFTables` is switched on.
#[test]
fn rules_of_iptables_go_once_those_of_nftables_are_there() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let config = by_nftables();
    for kind in ["nft", "legacy"] {
        let (prefix, options) = (Prefix::unique(), UnderlayOptions::default());
        let cluster = Cluster::with_config(prefix, options, &config.to_string())?;
        let node = cluster.underlay.join("a", NODE_A)?;
        let iptables = Iptables {
            node: node.namespace(),
            kind,
        };
        let mut agent = Agent::new(&node, &cluster.lease_server.url(), &FLAGS);
        agent.set_programs(&programs(&node, kind)?);
        iptables.leave("10.244.9.0/24")?;
        agent.start_again()?;
        let own = agent.wait_ready_for(2 * SECONDS)?.prefix().to_string();
        let table = ["nft", "list", "table", "ip", "flannel-ipv4"];
        ensure!(node.namespace().run(&table)? == golden_table(&own));
        for table in ["nat", "filter"] {
            let left = iptables.on(table, &["-S"])?;
            ensure!(!left.contains("FLANNEL"), "left by {kind}:\n{left}");
            ensure!(left.contains("203.0.113.1/32"), "of others:\n{left}");
        }

        // Without `iptables` nobody can take them away, and nothing else is missing.
        ensure!(agent.stop()?.success());
        iptables.leave("10.244.9.0/24")?;
        let only_nft = node.directory().join("nft-only");
        fs::create_dir(&only_nft)?;
        symlink("/usr/sbin/nft", only_nft.join("nft"))?;
        let mut agent = Agent::new(&node, &cluster.lease_server.url(), &FLAGS);
        agent.set_variable("PATH", &only_nft);
        node.namespace()
            .run(&["nft", "delete", "table", "ip", "flannel-ipv4"])?;
        agent.start_again()?;
        agent.wait_ready_for(2 * SECONDS)?;
        ensure!(node.namespace().run(&table)? == golden_table(&own));
        ensure!(iptables.run(&["-S"])?.contains("FLANNEL-POSTRTG"));
    }
    Ok(())
}

/// A busy node, and not one whose kernel cannot do it.
#[test]
fn an_nft_that_gives_no_answer_has_not_refused_random_ports() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let config = by_nftables();
    let (prefix, options) = (Prefix::unique(), UnderlayOptions::default());
    let cluster = Cluster::with_config(prefix, options, &config.to_string())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let folder = node.directory().join("bin");
    fs::create_dir(&folder)?;
    let once = folder.join("once");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' -c '*)\n[ -e {once} ] || {{ : >{once}; exec sleep 60; }}\n\
         esac\nexec /usr/sbin/nft \"$@\"\n",
        once = once.display()
    );
    write_program(&folder.join("nft"), &script)?;
    let mut agent = Agent::new(&node, &cluster.lease_server.url(), &FLAGS);
    agent.set_programs(&folder);
    agent.start_again()?;
    let env = agent.wait_ready_for(2 * SECONDS)?;
    ensure!(once.exists(), "it was not asked");
    let table = ["nft", "list", "table", "ip", "flannel-ipv4"];
    let found = node.namespace().run(&table)?;
    ensure!(found == golden_table(&env.prefix().to_string()), "{found}");
    Ok(())
}

#[test]
fn what_cannot_be_written_is_tried_again_and_nft_does_for_iptables() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let programs = node.directory().join("bin");
    fs::create_dir(&programs)?;
    let mut agent = Agent::new(&node, &cluster.lease_server.url(), &FLAGS);
    agent.set_variable("PATH", &programs);
    agent.start_again()?;
    wait_for("the agent says what fails", SECONDS, || {
        let told = agent.status()?;
        let status = &told["status"];
        let failing = status["errors"]["traffic_rules"].as_u64() > Some(0);
        ensure!(status["ready"] == false, "{status}");
        Ok(failing.then_some(()))
    })?;
    symlink("/usr/sbin/nft", programs.join("nft"))?;
    let env = agent.wait_ready_for(2 * SECONDS)?;
    let golden = golden_table(&env.prefix().to_string());
    let table = ["nft", "list", "table", "ip", "flannel-ipv4"];
    ensure!(
        node.namespace().run(&table)? == golden,
        "not flannel's table"
    );
    let log = agent.log_tail();
    ensure!(log.contains("there is no `iptables` in PATH"), "{log}");
    agent.stop()?;
    agent.ctl_text(&["teardown"])?;
    ensure!(
        node.namespace().run(&table)? == golden,
        "gone after teardown"
    );
    Ok(())
}

/// A start with other rules, while somebody looks all the time.
fn replaced_without_a_moment_without(cluster: &mut Cluster, kind: &str, own: &str) -> Result<()> {
    let member = &mut cluster.members[0];
    let iptables = Iptables {
        node: member.node.namespace(),
        kind,
    };
    let done = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let looking = scope.spawn(|| -> Result<u32> {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                let chain = iptables.run(&["-S", "FLANNEL-POSTRTG"])?;
                ensure!(chain.lines().count() == 7, "a moment of\n{chain}");
                let hook = iptables.run(&["-S", "POSTROUTING"])?;
                ensure!(hook.contains("FLANNEL-POSTRTG"), "a moment of\n{hook}");
                looks += 1;
            }
            Ok(looks)
        });
        let replaced = (|| {
            for disabled in [true, false, true] {
                let mut flags = FLAGS.to_vec();
                flags.extend(disabled.then_some("--ip-masq-fully-random-disable"));
                member.agent.stop()?;
                member.agent.set_flags(&flags);
                member.agent.start_again()?;
                member.agent.wait_ready()?;
                iptables.expect(own, if disabled { "" } else { " --random-fully" })?;
            }
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        let looks = match looking.join() {
            Ok(looks) => looks,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        replaced.and(looks)
    })?;
    ensure!(looks > 10, "only {looks} looks");
    Ok(())
}

fn write_program(path: &Path, script: &str) -> Result<()> {
    fs::write(path, script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A folder with `iptables` of one kind, as `update-alternatives` would make it.
fn programs(node: &Node, kind: &str) -> Result<PathBuf> {
    let folder = node.directory().join("bin");
    fs::create_dir(&folder)?;
    for suffix in ["", "-restore", "-save"] {
        let program = PathBuf::from(format!("/usr/sbin/iptables-{kind}{suffix}"));
        ensure!(program.exists(), "no {}", program.display());
        symlink(program, folder.join(format!("iptables{suffix}")))?;
    }
    Ok(folder)
}

struct Iptables<'a> {
    node: &'a Namespace,
    kind: &'a str,
}

impl Iptables<'_> {
    /// Works on the table `nat`.
    fn run(&self, words: &[&str]) -> Result<String> {
        self.on("nat", words)
    }

    fn on(&self, table: &str, words: &[&str]) -> Result<String> {
        let program = format!("iptables-{}", self.kind);
        let begin = [program.as_str(), "--wait", "-t", table];
        self.node.run(&[&begin, words].concat())
    }

    /// Writes what flannel leaves, each jump twice, beside rules of others.
    fn leave(&self, own: &str) -> Result<()> {
        let forward = format!("-N FLANNEL-FWD\n-A FLANNEL-FWD -s {NETWORK} -j ACCEPT\n");
        let masquerade = golden_chain(own, " --random-fully");
        for (table, chain, hook, name) in [
            ("nat", masquerade, "POSTROUTING", "masq"),
            ("filter", forward, "FORWARD", "forward"),
        ] {
            let target = if table == "nat" { "POSTRTG" } else { "FWD" };
            let jump =
                format!("-A {hook} -m comment --comment \"flanneld {name}\" -j FLANNEL-{target}\n");
            let others = format!("-A {hook} -s 203.0.113.1/32 -j ACCEPT\n");
            for line in format!("{chain}{jump}{others}{jump}").lines() {
                let command = format!("iptables-{} --wait -t {table} {line}", self.kind);
                self.node.run(&["sh", "-c", &command])?;
            }
        }
        Ok(())
    }

    /// The chains are what flannel's own end-to-end tests want (flannel 0.28.9, `e2e/`), and one
    /// jump leads to each, after all other rules.
    fn expect(&self, own: &str, random: &str) -> Result<()> {
        let masquerade = golden_chain(own, random);
        let found = self.run(&["-S", "FLANNEL-POSTRTG"])?;
        ensure!(
            found == masquerade,
            "found\n{found}\nexpected\n{masquerade}"
        );
        let forward = format!(
            "-N FLANNEL-FWD\n\
             -A FLANNEL-FWD -s {NETWORK} -m comment --comment \"flanneld forward\" -j ACCEPT\n\
             -A FLANNEL-FWD -d {NETWORK} -m comment --comment \"flanneld forward\" -j ACCEPT\n"
        );
        let found = self.on("filter", &["-S", "FLANNEL-FWD"])?;
        ensure!(found == forward, "found\n{found}\nexpected\n{forward}");
        for (table, hook, jump) in [
            (
                "nat",
                "POSTROUTING",
                "-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG",
            ),
            (
                "filter",
                "FORWARD",
                "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD",
            ),
        ] {
            let found = self.on(table, &["-S", hook])?;
            let jumps = found.lines().filter(|line| *line == jump).count();
            ensure!(jumps == 1, "{jumps} jumps in\n{found}");
        }
        Ok(())
    }
}

fn golden_chain(own: &str, random: &str) -> String {
    let masq = "-m comment --comment \"flanneld masq\" -j";
    let chain = "-A FLANNEL-POSTRTG";
    format!(
        "-N FLANNEL-POSTRTG
{chain} -m mark --mark 0x4000/0x4000 {masq} RETURN
{chain} -s {own} -d {NETWORK} {masq} RETURN
{chain} -s {NETWORK} -d {own} {masq} RETURN
{chain} ! -s {NETWORK} -d {own} {masq} RETURN
{chain} -s {NETWORK} ! -d 224.0.0.0/4 {masq} MASQUERADE{random}
{chain} ! -s {NETWORK} -d {NETWORK} {masq} MASQUERADE{random}
"
    )
}

/// What flannel's own end-to-end tests want `nft` to print (flannel 0.28.9, `e2e/`).
fn golden_table(own: &str) -> String {
    format!(
        "table ip flannel-ipv4 {{
\tcomment \"rules for flannel-ipv4\"
\tchain postrtg {{
\t\tcomment \"chain to manage traffic masquerading by flannel\"
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tmeta mark 0x00004000 return
\t\tip saddr {own} ip daddr {NETWORK} return
\t\tip saddr {NETWORK} ip daddr {own} return
\t\tip saddr != {own} ip daddr {NETWORK} return
\t\tip saddr {NETWORK} ip daddr != 224.0.0.0/4 masquerade fully-random
\t\tip saddr != {NETWORK} ip daddr {NETWORK} masquerade fully-random
\t}}

\tchain forward {{
\t\tcomment \"chain to accept flannel traffic\"
\t\ttype filter hook forward priority filter; policy accept;
\t\tip saddr {NETWORK} accept
\t\tip daddr {NETWORK} accept
\t}}
}}
"
    )
}

/// Each kind of iptables has tables that the other does not know: a packet has to pass both.
#[test]
fn a_forward_chain_of_the_other_kind_that_drops_the_overlay_is_told() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    for (kind, other, (label, address)) in [
        ("nft", "iptables-legacy", NODES[0]),
        ("legacy", "iptables-nft", NODES[1]),
    ] {
        let node = cluster.underlay.join(label, address)?;
        node.namespace().run(&[other, "-P", "FORWARD", "DROP"])?;
        let mut agent = Agent::new(&node, &cluster.lease_server.url(), &FLAGS);
        agent.set_programs(&programs(&node, kind)?);
        let outside = cluster.lease_server.address();
        let member = cluster.add_prepared(node, agent)?;
        member.add_pod("pod")?;
        let told = |there: bool| {
            wait_for(&format!("{other} is told: {there}"), SECONDS, || {
                let status = member.agent.status()?;
                let text = status["status"]["conditions"].to_string();
                let found = text.contains("forward_dropped") && text.contains(other);
                Ok((found == there).then_some(text))
            })
        };
        let text = told(true)?;
        let pod = member.pods[0].namespace();
        ensure!(ping(pod, outside, 1).is_err(), "the pod is not cut off");
        // The remedy.
        let remedy = format!("{other} -P FORWARD ACCEPT");
        ensure!(text.contains(&remedy), "{text}");
        member.node.namespace().run_lines(&remedy)?;
        told(false)?;
        ping(pod, outside, 1)?;
    }
    Ok(())
}
