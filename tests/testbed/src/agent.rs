//! `twilld` on a node, and `twillctl` asking it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;
use crate::daemon::{Daemon, binary, log_tail};
use crate::netns::{Namespace, report};
use crate::subnet_env::SubnetEnv;
use crate::sweep::PINS;
use crate::topology::Node;
use crate::world::UPLINK;

/// How long an agent may take to write `subnet.env`.
const READY: Duration = Duration::from_secs(20);

/// An agent of one node. Its pins go with it: nothing of a test outlives the test.
#[derive(Debug)]
pub struct Agent {
    daemon: Option<Daemon>,
    namespace: Arc<Namespace>,
    instance: String,
    directory: PathBuf,
    lease_server: String,
    flags: Vec<String>,
}

impl Agent {
    /// Starts an agent that gets its lease from this server, and waits until it is ready.
    pub fn start(node: &Node, lease_server: &str) -> Result<Self> {
        let mut agent = Self::new(node, lease_server, &[]);
        agent.start_again()?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// An agent that is not started yet, with further flags.
    pub fn new(node: &Node, lease_server: &str, flags: &[&str]) -> Self {
        Self {
            daemon: None,
            namespace: Arc::clone(node.namespace()),
            // Unique on this kernel, as the namespace is.
            instance: node.namespace().name().to_owned(),
            directory: node.directory().path().to_owned(),
            lease_server: lease_server.to_owned(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        }
    }

    /// Starts the daemon, for the first time or again, and does not wait.
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new(binary("twilld")?);
        command
            .args(["--lease-server", &self.lease_server])
            .args(["--iface", UPLINK])
            .args(["--instance", &self.instance])
            .arg("--subnet-file")
            .arg(self.subnet_file())
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(&self.flags);
        self.daemon = Some(Daemon::start(&self.namespace, command, &self.log())?);
        Ok(())
    }

    /// Waits until the agent has written `subnet.env`, which it does last, and gives it. A
    /// file of an earlier start counts: remove it to see the next one.
    pub fn wait_ready(&mut self) -> Result<SubnetEnv> {
        let path = self.subnet_file();
        let daemon = self.daemon.as_mut().context("the agent is not running")?;
        let instance = &self.instance;
        daemon.wait_for(&format!("{instance} has its subnet.env"), READY, || {
            path.exists().then(|| SubnetEnv::read(&path)).transpose()
        })
    }

    /// What the agent told CNI plugins.
    pub fn subnet_env(&self) -> Result<SubnetEnv> {
        SubnetEnv::read(&self.subnet_file())
    }

    /// The running daemon.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("the agent is not running")
    }

    /// Ends the daemon in order (SIGTERM). The datapath stays.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let daemon = self.daemon.take().context("the agent is not running")?;
        daemon.stop()
    }

    /// Kills the daemon (SIGKILL). The datapath stays.
    pub fn kill(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("the agent is not running")?;
        daemon.kill()
    }

    /// What `twillctl … --json` says, for example of `status`, `vteps` or `counters`.
    pub fn ctl(&self, words: &[&str]) -> Result<Value> {
        let text = self.ctl_text(&[words, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("twillctl {words:?} printed {text:?}"))
    }

    /// What `twillctl` prints for people.
    pub fn ctl_text(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(binary("twillctl")?);
        command
            .args(["--instance", &self.instance])
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(words);
        self.namespace
            .enter(|| command::run(&mut command))?
            .with_context(|| self.log_tail())
    }

    /// The name of its pins.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Where its pins are.
    pub fn pins(&self) -> PathBuf {
        Path::new(PINS).join(&self.instance)
    }

    /// Where it writes `subnet.env`.
    pub fn subnet_file(&self) -> PathBuf {
        self.directory.join("subnet.env")
    }

    /// Its run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log())
    }

    fn log(&self) -> PathBuf {
        self.directory.join("twilld.log")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The daemon first, or it would put its pins back.
        drop(self.daemon.take());
        let pins = self.pins();
        if pins.exists()
            && let Err(error) = fs::remove_dir_all(&pins)
        {
            report(&anyhow::Error::new(error).context(format!("remove {}", pins.display())));
        }
    }
}
