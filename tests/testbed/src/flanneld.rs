//! A real flanneld on a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::daemon::Daemon;
use crate::subnet_env::SubnetEnv;
use crate::topology::Node;
use crate::world::UPLINK;

/// Tells where it is.
const VARIABLE: &str = "TWILL_FLANNELD";
/// How long it may take until it runs.
const START: Duration = Duration::from_mins(1);
/// What it logs once lease, device, rules and `subnet.env` are there.
const RUNS: &str = "Running backend.";

/// The program: `TWILL_FLANNELD`, which `cargo xtask test` sets.
pub fn program() -> Result<PathBuf> {
    match std::env::var_os(VARIABLE) {
        Some(path) if Path::new(&path).is_file() => Ok(path.into()),
        Some(path) => bail!("{VARIABLE} names {}, which is no file", path.display()),
        None => bail!("no flanneld: `cargo xtask setup` builds one, {VARIABLE} says where it is"),
    }
}

/// Starts `program` with its lease at these endpoints, and does not wait.
pub fn spawn(program: &Path, node: &Node, endpoints: &str, flags: &[&str]) -> Result<Daemon> {
    let mut command = Command::new(program);
    command
        .arg(format!("--etcd-endpoints={endpoints}"))
        .arg(format!("--iface={UPLINK}"))
        .arg(format!("--subnet-file={}", subnet_file(node).display()))
        .args(flags);
    Daemon::start(node.namespace(), command, &log(node))
        .with_context(|| format!("start {}", program.display()))
}

/// Where it writes `subnet.env`: where an agent of this node does.
pub fn subnet_file(node: &Node) -> PathBuf {
    node.directory().join("subnet.env")
}

fn log(node: &Node) -> PathBuf {
    node.directory().join("flanneld.log")
}

/// One that runs.
#[derive(Debug)]
pub struct Flanneld {
    daemon: Daemon,
    subnet_file: PathBuf,
}

impl Flanneld {
    /// Starts it, and waits until it runs.
    pub fn start(node: &Node, endpoints: &str, flags: &[&str]) -> Result<Self> {
        let log = log(node);
        // What an earlier one said says nothing of this one.
        let said = fs::metadata(&log).map_or(0, |meta| meta.len());
        let mut daemon = spawn(&program()?, node, endpoints, flags)?;
        daemon.wait_for("flanneld runs", START, || {
            let text = fs::read(&log)?;
            let new = text.get(usize::try_from(said)?..).unwrap_or_default();
            Ok(String::from_utf8_lossy(new).contains(RUNS).then_some(()))
        })?;
        Ok(Self {
            daemon,
            subnet_file: subnet_file(node),
        })
    }

    /// What it told CNI plugins.
    pub fn subnet_env(&self) -> Result<SubnetEnv> {
        SubnetEnv::read(&self.subnet_file)
    }

    /// The running process.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Ends it in order (SIGTERM), or kills it when that does not end it, as a service manager
    /// does: version 0.28.9 now and then waits for its own watcher of the device without an end.
    pub fn stop(self) -> Result<()> {
        match self.daemon.stop() {
            Ok(status) if !status.success() => bail!("flanneld ended with {status}"),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Kills it (SIGKILL).
    pub fn kill(self) -> Result<()> {
        self.daemon.kill()
    }
}
