//! CNI's own bandwidth plugin, which k3s has in its default configuration.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use twill_testbed::pod::Pod;

use super::{Watched, on_a_node};

/// Calls the plugin as a container runtime does after the one that wired the pod.
fn call(watched: &Watched<'_>, pod: &Pod, config: &Value, verb: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), config.to_string())?;
    let folder = std::env::var("TWILL_CNI_PATH").unwrap_or_else(|_| "/usr/lib/cni".to_owned());
    let mut command = Command::new(format!("{folder}/bandwidth"));
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", pod.namespace().name())
        .env("CNI_NETNS", pod.namespace().path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", folder)
        .stdin(file.reopen()?);
    watched
        .node
        .namespace()
        .enter(|| twill_testbed::command::run(&mut command))?
        .with_context(|| format!("bandwidth {verb}"))
}

#[test]
fn a10_a_pod_with_a_bandwidth_annotation_stays_slow() -> Result<()> {
    on_a_node(async |watched| {
        let pod = Pod::add(watched.node, "1", &watched.env)?;
        watched.sees_no_change("one pod", &["Bridge"]).await?;
        let veth = watched.veth().await?;
        let sandbox = pod.namespace().path();
        for (place, limits) in [
            (
                "root",
                json!({ "ingressRate": 50_000_000, "ingressBurst": 5_000_000 }),
            ),
            (
                "ingress",
                json!({ "egressRate": 50_000_000, "egressBurst": 5_000_000 }),
            ),
        ] {
            let mut config = json!({
                "cniVersion": "0.3.1",
                "name": "cbr0",
                "type": "bandwidth",
                "prevResult": {
                    "cniVersion": "0.3.1",
                    "interfaces": [
                        { "name": "cni0" },
                        { "name": veth },
                        { "name": "eth0", "sandbox": sandbox },
                    ],
                    "ips": [],
                },
            });
            let runtime = config.as_object_mut().context("config")?;
            runtime.insert("runtimeConfig".to_owned(), json!({ "bandwidth": limits }));
            runtime.insert("capabilities".to_owned(), json!({ "bandwidth": true }));
            watched.change(|watched| call(watched, &pod, &config, "ADD"))?;
            watched
                .sees(&limits.to_string(), &["Bridge foreign_qdisc"])
                .await?;
            // The plugin's DEL leaves the qdisc to the veth's end.
            watched.run(&format!("tc qdisc del dev {veth} {place}"))?;
            watched.sees("limit gone", &["Bridge"]).await?;
        }
        Ok(())
    })
}
