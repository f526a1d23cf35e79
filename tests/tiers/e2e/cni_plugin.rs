//! The CNI plugin `flannel`, called as container runtimes call it, with real delegates, and beside
//! the plugin that flannel's own descends from.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use twill_abi::{VETH_FLAG_ATTACHED, VETH_FLAG_NEVER_FAST};
use twill_agent::datapath::pins::Pins;
use twill_agent::datapath::reader;
use twill_testbed::agent::Agent;
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::daemon;
use twill_testbed::directory::Directory;
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::wait::wait_until;
use twill_testbed::world::NODE_A;
use twill_tests::required;

const V4: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n";
const V6: &str = "FLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n";
const REST: &str = "FLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
const CONTAINER: &str = "0f3c9a";
/// What a runtime may wait for the plugin's own part of a call.
const START: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(15);

/// A node and a pod that is not wired yet.
struct Host {
    node: Arc<Namespace>,
    pod: Namespace,
    folder: Directory,
    /// Our plugin, then real ones.
    plugins: PathBuf,
    real: PathBuf,
}

impl Host {
    fn new(subnet_env: &str) -> Result<Self> {
        let prefix = Prefix::unique();
        let real = std::env::var_os("TWILL_CNI_REAL")
            .map(PathBuf::from)
            .context("TWILL_CNI_REAL: `cargo xtask test e2e` builds and names it")?;
        let host = Self {
            node: Arc::new(Namespace::under(&prefix, "node")?),
            pod: Namespace::under(&prefix, "pod")?,
            folder: Directory::new(prefix.as_str())?,
            plugins: daemon::binary("flannel")?,
            real,
        };
        fs::write(host.path("subnet.env"), subnet_env)?;
        Ok(host)
    }

    /// A pod to be of a node that has an agent.
    fn beside(member: &Member) -> Result<Self> {
        let host = Self::new(&fs::read_to_string(member.agent.subnet_file())?)?;
        Ok(Self {
            node: Arc::clone(member.node.namespace()),
            ..host
        })
    }

    /// Writes the runtime's list: our plugin, and these behind it.
    fn list(&self, agent: &Agent, behind: &[Value]) -> Result<()> {
        for folder in ["net.d", "cache"] {
            fs::create_dir_all(self.path(folder))?;
        }
        let mut flannel = self.config("1.1.0");
        let own = flannel.as_object_mut().context("an object")?;
        own.retain(|key, _| key != "name" && key != "cniVersion");
        flannel["twill"] = json!({"instance": agent.instance()});
        let plugins = [&[flannel], behind].concat();
        let list = json!({"cniVersion": "1.1.0", "name": "cbr0", "plugins": plugins});
        fs::write(self.path("net.d/10-flannel.conflist"), list.to_string())?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path("state").join(CONTAINER)
    }

    /// A config as flannel's manifest has it, with folders of the test's.
    fn config(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "cbr0",
            "type": "flannel",
            "subnetFile": self.path("subnet.env"),
            "dataDir": self.path("state"),
            "ipam": {"dataDir": self.path("addresses")},
            "delegate": {"hairpinMode": true, "isDefaultGateway": true},
        })
    }

    /// Calls our plugin, or the real one.
    fn call(&self, plugin: &Path, verb: &str, config: &Value) -> Result<Output> {
        let mut command = Command::new(plugin);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", CONTAINER)
            .env("CNI_NETNS", self.pod.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.real)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let run = || -> Result<Output> {
            let mut child = command.spawn()?;
            let mut stdin = child.stdin.take().context("no standard input")?;
            stdin.write_all(config.to_string().as_bytes())?;
            drop(stdin);
            Ok(child.wait_with_output()?)
        };
        self.node.enter(run)?
    }

    fn ours(&self, verb: &str, config: &Value) -> Result<Output> {
        self.call(&self.plugins, verb, config)
    }

    /// The same, which must succeed.
    fn done(&self, verb: &str, config: &Value) -> Result<Value> {
        result(&self.ours(verb, config)?).with_context(|| format!("CNI {verb}"))
    }

    /// `cnitool`, with its cache in a folder of the test's.
    fn tool(&self, verb: &str, capabilities: &str) -> Result<String> {
        let paths = format!(
            "{}:{}",
            self.folder_of_ours().display(),
            self.real.display()
        );
        let pod = self.pod.path();
        self.node.run(&[
            "unshare".as_ref(),
            "--mount".as_ref(),
            "env".as_ref(),
            format!("CNI_PATH={paths}").as_ref(),
            format!("NETCONFPATH={}", self.path("net.d").display()).as_ref(),
            format!("CAP_ARGS={capabilities}").as_ref(),
            "sh".as_ref(),
            "-ec".as_ref(),
            "mount -t tmpfs tmpfs /var/lib; mkdir /var/lib/cni; mount --bind \"$0\" /var/lib/cni; exec \"$@\"".as_ref(),
            self.path("cache").as_os_str(),
            self.real.join("cnitool").as_os_str(),
            verb.as_ref(),
            "cbr0".as_ref(),
            pod.as_os_str(),
        ])
    }

    fn folder_of_ours(&self) -> &Path {
        self.plugins.parent().unwrap_or(Path::new("/"))
    }
}

/// What a plugin printed.
fn result(output: &Output) -> Result<Value> {
    ensure!(
        output.status.success(),
        "it ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.stdout.is_empty() {
        return Ok(Value::Null);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Code and message of a plugin that failed.
fn refusal(output: &Output) -> Result<(u64, String)> {
    ensure!(!output.status.success(), "it succeeded");
    let error: Value = serde_json::from_slice(&output.stdout)?;
    let code = error["code"].as_u64().context("no code")?;
    let message = error["msg"].as_str().context("no message")?;
    Ok((code, message.to_owned()))
}

fn addresses(result: &Value) -> Vec<&str> {
    let ips = result["ips"].as_array().map_or(&[][..], Vec::as_slice);
    ips.iter().filter_map(|ip| ip["address"].as_str()).collect()
}

#[test]
fn a_pod_comes_and_goes_in_each_family() -> Result<()> {
    if !required() {
        return Ok(());
    }
    for (subnets, expected) in [
        (V4.to_owned(), vec!["10.244.1.2/24"]),
        (V6.to_owned(), vec!["fd00:10:244:1::2/64"]),
        (
            format!("{V4}{V6}"),
            vec!["10.244.1.2/24", "fd00:10:244:1::2/64"],
        ),
    ] {
        let host = Host::new(&format!("{subnets}{REST}"))?;
        let config = host.config("1.0.0");
        let added = host.done("ADD", &config)?;
        assert_eq!(addresses(&added), expected);
        let mut check = config.clone();
        check["prevResult"] = added;
        host.done("CHECK", &check)?;
        let link = host.pod.run(&["ip", "-o", "link", "show", "eth0"])?;
        assert!(link.contains("mtu 1472"), "{link}");
        host.done("DEL", &config)?;
        assert!(host.pod.run(&["ip", "link", "show", "eth0"]).is_err());
        assert!(!host.state().exists());
        host.done("DEL", &config)?;
    }
    Ok(())
}

#[test]
fn a_pod_that_lost_its_link_is_seen_by_check() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let host = Host::new(&format!("{V4}{REST}"))?;
    let mut config = host.config("1.0.0");
    config["prevResult"] = host.done("ADD", &config)?;
    host.pod.run(&["ip", "link", "del", "eth0"])?;
    refusal(&host.ours("CHECK", &config)?)?;
    host.done("DEL", &config)?;
    // Of a container that was never here, and without what ADD answered.
    assert_eq!(refusal(&host.ours("CHECK", &config)?)?.0, 3);
    Ok(())
}

#[test]
fn what_is_handed_on_and_answered_is_what_the_older_plugin_does() -> Result<()> {
    if !required() {
        return Ok(());
    }
    for delegate in [
        json!({"hairpinMode": true, "isDefaultGateway": true}),
        json!({"type": "ptp", "ipMasq": true, "mtu": 1400}),
        json!({"isGateway": false, "promiscMode": true}),
    ] {
        let mut seen = Vec::new();
        for ours in [true, false] {
            let host = Host::new(&format!("{V4}{REST}"))?;
            let mut config = host.config("0.4.0");
            config["delegate"] = delegate.clone();
            config["runtimeConfig"] = json!({"mac": "02:00:5e:10:00:01"});
            let real = host.real.join("flannel");
            let plugin = if ours { &host.plugins } else { &real };
            let mut answer = result(&host.call(plugin, "ADD", &config)?)?;
            let text = fs::read_to_string(host.state())?;
            // Each test has folders of its own.
            let folder = host.folder.path().display().to_string();
            let mut handed: Value = serde_json::from_str(&text.replace(&folder, ""))?;
            // What came with the second family: a list of ranges instead of one subnet.
            if let Some(subnet) = handed["ipam"]
                .as_object_mut()
                .and_then(|i| i.remove("subnet"))
            {
                handed["ipam"]["ranges"] = json!([[{"subnet": subnet}]]);
            }
            for interface in answer["interfaces"].as_array_mut().into_iter().flatten() {
                let interface = interface.as_object_mut().context("an interface")?;
                interface.retain(|key, value| {
                    key != "mac" && key != "sandbox" && !value.to_string().contains("veth")
                });
            }
            result(&host.call(plugin, "DEL", &config)?)?;
            seen.push((handed, answer));
        }
        assert_eq!(seen[0], seen[1], "delegate {delegate}");
    }
    Ok(())
}

#[test]
fn a_pod_of_the_older_plugin_is_taken_away_by_ours_and_the_other_way_round() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let host = Host::new(&format!("{V4}{REST}"))?;
    let config = host.config("0.3.1");
    let real = host.real.join("flannel");
    for (adds, removes) in [(&real, &host.plugins), (&host.plugins, &real)] {
        result(&host.call(adds, "ADD", &config)?)?;
        result(&host.call(removes, "DEL", &config)?)?;
        assert!(host.pod.run(&["ip", "link", "show", "eth0"]).is_err());
        let kept: Vec<_> = fs::read_dir(host.path("addresses/cbr0"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("10."))
            .collect();
        assert_eq!(kept, Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn a_delegate_that_cannot_take_a_pod_away_is_asked_again() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let host = Host::new(&format!("{V4}{REST}"))?;
    let config = host.config("0.3.1");
    host.done("ADD", &config)?;
    // What the address is kept in cannot be read for a while.
    let addresses = host.path("addresses");
    fs::rename(&addresses, host.path("away"))?;
    fs::write(&addresses, "no folder")?;
    refusal(&host.ours("DEL", &config)?)?;
    assert!(host.state().exists());
    fs::remove_file(&addresses)?;
    fs::rename(host.path("away"), &addresses)?;
    host.done("DEL", &config)?;
    assert!(!host.state().exists());
    assert!(!addresses.join("cbr0/10.244.1.2").exists());
    Ok(())
}

#[test]
fn what_a_runtime_must_not_say_is_refused_in_words() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let host = Host::new(&format!("{V4}{REST}"))?;
    let with = |key: &str, value: Value| {
        let mut config = host.config("0.3.1");
        config[key] = value;
        config
    };
    for (config, code, words) in [
        (with("name", json!("")), 7, "missing network name"),
        (
            with("name", json!("../x")),
            7,
            "invalid characters found in network name",
        ),
        (
            with("cniVersion", json!("2.0.0")),
            1,
            "incompatible CNI versions",
        ),
        (
            with("delegate", json!({"type": "flannel"})),
            7,
            "'delegate' must be another plugin than flannel, as bridge",
        ),
        (
            with("delegate", json!({"name": "x"})),
            999,
            "'delegate' dictionary must not have 'name' field, it'll be set by flannel",
        ),
        (
            with("delegate", json!({"type": "../bridge"})),
            999,
            "failed to delegate add: invalid plugin name: \"../bridge\"",
        ),
        (
            with("subnetFile", json!("/nonexistent/subnet.env")),
            999,
            "failed to load flannel 'subnet.env' file: open /nonexistent/subnet.env: \
             no such file or directory. Check the flannel pod log for this node.",
        ),
    ] {
        assert_eq!(
            refusal(&host.ours("ADD", &config)?)?,
            (code, words.to_owned())
        );
    }
    assert_eq!(refusal(&host.ours("CHECK", &with("x", json!(1)))?)?.0, 1);
    assert_eq!(refusal(&host.ours("GC", &host.config("1.0.0"))?)?.0, 1);
    assert!(host.pod.run(&["ip", "link", "show", "eth0"]).is_err());
    Ok(())
}

/// CNI 1.1, with other plugins chained to ours, by the tool of the specification's authors.
#[test]
fn every_verb_works_in_a_chain() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let host = Host::new(&format!("{V4}{REST}"))?;
    for folder in ["net.d", "cache"] {
        fs::create_dir(host.path(folder))?;
    }
    let mut flannel = host.config("1.1.0");
    let own = flannel.as_object_mut().context("an object")?;
    own.retain(|key, _| key != "name" && key != "cniVersion");
    let list = json!({
        "cniVersion": "1.1.0",
        "name": "cbr0",
        "plugins": [
            flannel,
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
            {"type": "bandwidth", "ingressRate": 100_000_000, "ingressBurst": 1_000_000},
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
            {"type": "firewall", "backend": "iptables"},
        ],
    });
    fs::write(host.path("net.d/10-flannel.conflist"), list.to_string())?;
    let mappings =
        r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#;
    host.tool("status", "")?;
    let added: Value = serde_json::from_str(&host.tool("add", mappings)?)?;
    assert_eq!(addresses(&added), ["10.244.1.2/24"]);
    let rules = host.node.run(&["iptables", "-t", "nat", "-S"])?;
    assert!(rules.contains("10.244.1.2:80"), "{rules}");
    let class = host.node.run(&["tc", "qdisc"])?;
    assert!(class.contains("tbf"), "{class}");
    assert_eq!(host.pod.sysctl("net.core.somaxconn")?, "500");
    host.tool("check", mappings)?;
    host.tool("gc", mappings)?;
    host.tool("del", mappings)?;
    fs::remove_file(host.path("subnet.env"))?;
    assert!(host.tool("status", "").is_err());
    Ok(())
}

/// What the node's maps say about the pod's veth; nothing where it is in none.
fn entered(agent: &Agent, veth: u32) -> Result<Option<u32>> {
    let pins = Pins::new(Path::new("/sys/fs/bpf"), &agent.instance().parse()?);
    Ok(reader::permits(&pins)?.veths()?.get(&veth).copied())
}

/// The chain beside a daemon, and the fast path by what the chain has done to the pod's veth.
#[test]
fn a_chain_decides_whether_its_pod_may_be_fast() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = Cluster::of(&[("a", NODE_A)])?;
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
    let bandwidth =
        json!({"type": "bandwidth", "ingressRate": 100_000_000, "ingressBurst": 1_000_000});
    let tuning = json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}});
    let firewall = json!({"type": "firewall", "backend": "iptables"});
    let harmless = [portmap.clone(), tuning.clone(), firewall.clone()];
    let all = [portmap, bandwidth, tuning, firewall];
    let mappings =
        r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#;
    let member = &mut cluster.members[0];
    let fast = Some(VETH_FLAG_ATTACHED);
    let slow = Some(VETH_FLAG_ATTACHED | VETH_FLAG_NEVER_FAST);
    for (behind, expected) in [(&harmless[..], fast), (&all[..], slow)] {
        let host = Host::beside(member)?;
        host.list(&member.agent, behind)?;
        host.tool("status", "")?;
        host.tool("add", mappings)?;
        let veth = host.pod.link_json("eth0")?["link_index"].clone();
        let veth = u32::try_from(veth.as_u64().context("no veth")?)?;
        wait_until(
            "the pod is judged",
            PATIENCE,
            || matches!(entered(&member.agent, veth), Ok(flags) if flags == expected),
        )?;
        host.tool("check", mappings)?;
        host.tool("del", mappings)?;
        assert_eq!(entered(&member.agent, veth)?, None, "after DEL");
    }

    // Without a daemon, GC takes out of the maps what has gone without DEL.
    member.agent.kill()?;
    let host = Host::beside(member)?;
    host.list(&member.agent, &harmless)?;
    host.tool("add", mappings)?;
    let veth = host.pod.link_json("eth0")?["link_index"].clone();
    let veth = u32::try_from(veth.as_u64().context("no veth")?)?;
    assert_eq!(entered(&member.agent, veth)?, fast);
    host.pod.run(&["ip", "link", "del", "eth0"])?;
    assert_eq!(entered(&member.agent, veth)?, fast, "nobody has told");
    // By itself: the tool would ask for a DEL first.
    let mut config = host.config("1.1.0");
    config["twill"] = json!({"instance": member.agent.instance()});
    host.done("GC", &config)?;
    assert_eq!(entered(&member.agent, veth)?, None, "after GC");
    host.tool("del", mappings)?;
    Ok(())
}

#[test]
fn what_belongs_to_no_living_pod_is_taken_away() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let host = Host::new(&format!("{V4}{REST}"))?;
    let mut config = host.config("1.1.0");
    host.done("ADD", &config)?;
    let state = host.path("state");
    let text = fs::read_to_string(host.state())?;
    fs::write(state.join("forgotten"), &text)?;
    fs::write(state.join("foreign"), text.replace("cbr0", "other"))?;
    let kept = || -> Result<Vec<String>> {
        let mut names: Vec<_> = fs::read_dir(&state)?
            .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
            .collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    };
    // Without a list nothing is known to be gone; what is no list is refused.
    host.done("GC", &config)?;
    config["cni.dev/valid-attachments"] = json!("none");
    assert_eq!(refusal(&host.ours("GC", &config)?)?.0, 7);
    assert_eq!(kept()?, [CONTAINER, "foreign", "forgotten"]);
    config["cni.dev/valid-attachments"] = json!([{"containerID": CONTAINER, "ifname": "eth0"}]);
    host.done("GC", &config)?;
    assert_eq!(kept()?, [CONTAINER, "foreign"]);
    host.pod.run(&["ip", "link", "show", "eth0"])?;
    config["cni.dev/valid-attachments"] = json!([]);
    host.done("GC", &config)?;
    assert_eq!(kept()?, ["foreign"]);
    assert!(!host.path("addresses/cbr0/10.244.1.2").exists());
    Ok(())
}

#[test]
fn it_starts_in_less_than_ten_milliseconds() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let plugin = daemon::binary("flannel")?;
    // The fastest of many: how long it takes, and not what else the machine does.
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let begin = Instant::now();
        let output = Command::new(&plugin)
            .env("CNI_COMMAND", "VERSION")
            .stdin(Stdio::null())
            .output()?;
        fastest = fastest.min(begin.elapsed());
        let versions = result(&output)?;
        assert_eq!(versions["supportedVersions"][6], json!("1.1.0"));
    }
    assert!(fastest < START, "{fastest:?}");
    Ok(())
}
