//! Pods: namespaces that real CNI plugins wire to their node.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ipnetwork::Ipv4Network;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::command::checked;
use crate::daemon;
use crate::netns::{Namespace, Prefix, report};
use crate::subnet_env::{Delegate, SubnetEnv};
use crate::topology::Node;

/// Where Debian's `containernetworking-plugins` are; `TWILL_CNI_PATH` says otherwise.
const PLUGINS: &str = "/usr/lib/cni";
const LINK: &str = "eth0";

/// A pod with one interface, `eth0`. Dropping it asks the plugin to take it off its node.
#[derive(Debug)]
pub struct Pod {
    namespace: Namespace,
    node: Arc<Namespace>,
    label: String,
    address: Ipv4Addr,
    config: Value,
}

impl Pod {
    /// Makes the pod `<node>-<label>` and wires it by the bridge plugin.
    pub fn add(node: &Node, label: &str, env: &SubnetEnv) -> Result<Self> {
        Self::add_by(Delegate::Bridge, node, label, env)
    }

    /// Makes the pod and wires it by this plugin.
    pub fn add_by(delegate: Delegate, node: &Node, label: &str, env: &SubnetEnv) -> Result<Self> {
        let data_dir = addresses(node)?;
        Self::wire(node, label, env.delegate(delegate, &data_dir))
    }

    /// Makes the pod and wires it by Twill's own plugin, beside this agent or in its absence.
    /// The runtime's lists are in `lists`.
    pub fn add_by_twill(node: &Node, label: &str, agent: &Agent, lists: &Path) -> Result<Self> {
        let data_dir = addresses(node)?;
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "cbr0",
            "type": "flannel",
            "subnetFile": agent.subnet_file(),
            "dataDir": node.directory().join("plugin"),
            "ipam": {"dataDir": data_dir},
            "delegate": {"hairpinMode": true, "isDefaultGateway": true},
            "twill": {"instance": agent.instance(), "confDir": lists},
        });
        Self::wire(node, label, config)
    }

    fn wire(node: &Node, label: &str, config: Value) -> Result<Self> {
        let namespace = Namespace::under(&Prefix::fixed(node.namespace().name()), label)?;
        let mut pod = Self {
            namespace,
            node: Arc::clone(node.namespace()),
            label: label.to_owned(),
            address: Ipv4Addr::UNSPECIFIED,
            config,
        };
        let result = pod.call_plugin("ADD")?;
        pod.address = address_in(&result)?;
        // As runtimes do, for DEL.
        pod.config["prevResult"] = serde_json::from_str(&result)?;
        Ok(pod)
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The short name that it was given.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The address that host-local gave it.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Calls the delegate as a container runtime does, inside the node's namespace.
    fn call_plugin(&self, verb: &str) -> Result<String> {
        let plugins = std::env::var_os("TWILL_CNI_PATH").unwrap_or_else(|| PLUGINS.into());
        let Some(kind) = self.config["type"].as_str() else {
            bail!("no `type` in {}", self.config);
        };
        let program = if kind == "flannel" {
            daemon::binary(kind)?
        } else {
            PathBuf::from(&plugins).join(kind)
        };
        let mut command = Command::new(program);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.namespace.name())
            .env("CNI_NETNS", self.namespace.path())
            .env("CNI_IFNAME", LINK)
            .env("CNI_PATH", &plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let call = || -> Result<String> {
            let mut child = command
                .spawn()
                .with_context(|| format!("start the CNI plugin {kind}"))?;
            let mut stdin = child.stdin.take().context("no standard input")?;
            stdin.write_all(self.config.to_string().as_bytes())?;
            drop(stdin);
            checked(&command, &child.wait_with_output()?)
        };
        self.node
            .enter(call)?
            .with_context(|| format!("CNI {verb} for {}", self.namespace.name()))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Err(error) = self.call_plugin("DEL") {
            report(&error);
        }
    }
}

/// Where host-local keeps the addresses of a node's pods.
fn addresses(node: &Node) -> Result<PathBuf> {
    let folder = node.directory().join("cni");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

/// The pod's address in a CNI result (version 0.3.1: `ips[].address`).
fn address_in(result: &str) -> Result<Ipv4Addr> {
    let result: Value = serde_json::from_str(result).context("the CNI result is no JSON")?;
    let address = result["ips"][0]["address"]
        .as_str()
        .with_context(|| format!("no address in the CNI result {result}"))?;
    Ok(address.parse::<Ipv4Network>()?.ip())
}
