//! The daemon in the image, with the rights and mounts of the manifests.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;
use twill_testbed::daemon::{Daemon, binary};
use twill_testbed::wait::wait_for;

use crate::container::{Container, FLANNELS, available};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node with nothing but a pod on its network.
struct Pod {
    daemon: Daemon,
    // After the daemons: fields are dropped in order.
    _leases: Daemon,
    host: TempDir,
    container: Container,
}

impl Pod {
    /// Starts it; `bpf`: as our manifest has it, else as flannel's.
    fn start(label: &str, capabilities: &[&str], bpf: bool) -> Result<Self> {
        let mut container = Container::new(label, capabilities)?;
        container.namespace.run_lines(
            "ip link add eth0 type veth peer name peer0
             ip addr add 192.0.2.10/24 dev eth0
             ip link set eth0 up
             ip link set peer0 up
             ip route add default via 192.0.2.1",
        )?;
        let host = tempfile::tempdir()?;
        let folder = |name: &str| -> Result<_> {
            let path = host.path().join(name);
            fs::create_dir_all(&path)?;
            Ok(path)
        };
        for name in ["run/flannel", "run/twill", "var/lib/twill"] {
            container.mount(&folder(name)?, &format!("/{name}"));
        }
        if bpf {
            container.mount(Path::new("bpf"), "/sys/fs/bpf");
            container.mount(Path::new("/proc/sys/net"), "/host/proc/sys/net");
        }
        let config = host.path().join("net-conf.json");
        fs::write(
            &config,
            r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#,
        )?;
        let mut serve = std::process::Command::new(binary("twilld")?);
        serve.arg("serve").arg("--network-config").arg(&config);
        serve.arg("--data-dir").arg(folder("leases")?);
        let leases = Daemon::start(&container.namespace, serve, &host.path().join("leases.log"))?;
        let words = [
            "/opt/bin/flanneld",
            "--ip-masq",
            "--lease-server=http://127.0.0.1:7890",
            "--healthz-port=8081",
        ];
        let command = container.command(&words);
        let daemon = Daemon::start(&container.namespace, command, &host.path().join("log"))?;
        Ok(Self {
            daemon,
            _leases: leases,
            host,
            container,
        })
    }

    /// What the daemon says of itself once this is so.
    fn status(&mut self, good: impl Fn(&Value) -> bool) -> Result<Value> {
        let file = self.host.path().join("run/twill/default/status.json");
        let log = self.host.path().join("log");
        let mut last = Value::Null;
        let found = wait_for("its status", PATIENCE, || {
            let Ok(text) = fs::read(&file) else {
                return Ok(None);
            };
            last = serde_json::from_slice(&text)?;
            Ok(good(&last).then(|| last.clone()))
        });
        found.with_context(|| {
            let said = fs::read_to_string(log).unwrap_or_default();
            format!("{}\n{said}", self.daemon.log_tail())
        })
    }
}

/// The capabilities of the daemon in our manifest.
fn ours() -> Result<Vec<String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/kube-twill.yml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(file)?)?;
    let pointer = "/spec/template/spec/containers/0/securityContext/capabilities/add";
    let list = documents.iter().find_map(|it| it.pointer(pointer));
    Ok(serde_json::from_value(
        list.context("capabilities")?.clone(),
    )?)
}

#[test]
fn with_our_manifest_flows_can_be_fast() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let capabilities = ours()?;
    let capabilities: Vec<_> = capabilities.iter().map(String::as_str).collect();
    let mut pod = Pod::start("bpf", &capabilities, true)?;
    let status = pod.status(|it| it["mode"] == "bpf" && it["fast_path"]["tcp"] == true)?;
    assert_eq!(status["fast_path"]["mode"], "permit", "{status}");
    let written = fs::read_to_string(pod.host.path().join("run/flannel/subnet.env"))?;
    assert!(written.contains("FLANNEL_IPMASQ=true"), "{written}");
    pod.container.says(&["/bin/sh", "-c", "exit 0"])?;
    Ok(())
}

/// Under flannel's own manifest Twill is a flannel: it says why, and is ready.
#[test]
fn with_flannels_manifest_the_kernel_carries_the_packets() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut pod = Pod::start("swap", &FLANNELS, false)?;
    let status = pod.status(|it| it["ready"] == true)?;
    assert_eq!(status["mode"], "kernel", "{status}");
    pod.container
        .namespace
        .run_lines("ip link show flannel.1")?;
    let rules = pod
        .container
        .namespace
        .run(&["iptables-nft-save", "-t", "nat"])?;
    assert!(rules.contains("FLANNEL-POSTRTG"), "{rules}");
    Ok(())
}

/// As in a privileged pod without the host's BPF file system, RKE2's for one: it works, and is said
/// to end with the pod.
#[test]
fn pins_that_end_with_the_pod_are_said_to() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let rights = ["NET_ADMIN", "NET_RAW", "BPF", "PERFMON", "SYS_ADMIN"];
    let mut pod = Pod::start("rke2", &rights, false)?;
    pod.status(|it| it["mode"] == "bpf")?;
    let log = fs::read_to_string(pod.host.path().join("log"))?;
    assert!(log.contains("go when that namespace goes"), "{log}");
    Ok(())
}
