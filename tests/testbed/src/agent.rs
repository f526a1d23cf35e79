//! `twilld` on a node, and `twillctl` asking it.

use std::ffi::OsString;
use std::fs;
use std::iter;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use crate::command::{self, apart};
use crate::counters::Counters;
use crate::daemon::{Daemon, binary, log_tail, next_binary};
use crate::netns::{Namespace, report};
use crate::subnet_env::SubnetEnv;
use crate::sweep::PINS;
use crate::topology::Node;
use crate::world::UPLINK;

/// Says after how many steps a build with crash points dies.
const CRASH_AFTER: &str = "TWILL_CRASH_AFTER";
/// How long an agent may take to be ready.
const READY: Duration = Duration::from_mins(1);

/// An agent of one node. Its pins go with it: nothing of a test outlives the test.
#[derive(Debug)]
pub struct Agent {
    daemon: Option<Daemon>,
    namespace: Arc<Namespace>,
    instance: String,
    directory: PathBuf,
    /// The flags that name its lease store.
    store: [String; 2],
    iface: Option<String>,
    flags: Vec<String>,
    /// Where the daemon looks for programs before anywhere else.
    programs: Option<PathBuf>,
    /// Variables of its environment.
    variables: Vec<(String, OsString)>,
    build: Build,
    crash_after: Option<u32>,
}

/// Which build of Twill's binaries runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Build {
    /// The usual one.
    Usual,
    /// The one with the next ABI version, see [`next_binary`].
    Next,
}

impl Build {
    fn binary(self, name: &str) -> Result<PathBuf> {
        match self {
            Self::Usual => binary(name),
            Self::Next => next_binary(name),
        }
    }
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
        Self::with_store(node, ["--lease-server", lease_server], flags)
    }

    /// The same with its lease in etcd, at these endpoints.
    pub fn on_etcd(node: &Node, endpoints: &str, flags: &[&str]) -> Self {
        Self::with_store(node, ["--etcd-endpoints", endpoints], flags)
    }

    fn with_store(node: &Node, store: [&str; 2], flags: &[&str]) -> Self {
        Self {
            daemon: None,
            namespace: Arc::clone(node.namespace()),
            // Unique on this kernel, as the namespace is.
            instance: node.namespace().name().to_owned(),
            directory: node.directory().path().to_owned(),
            store: store.map(str::to_owned),
            iface: Some(UPLINK.to_owned()),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            programs: None,
            variables: Vec::new(),
            build: Build::Usual,
            crash_after: None,
        }
    }

    /// Has it be a further one on its node, with pins and files of its own.
    pub fn set_beside(&mut self, label: &str) -> Result<()> {
        self.instance = format!("{}-{label}", self.instance);
        self.directory = self.directory.join(label);
        fs::create_dir(&self.directory)
            .with_context(|| format!("create {}", self.directory.display()))
    }

    /// Has the daemon started with this `--iface` from now on, or with none.
    pub fn set_iface(&mut self, iface: Option<&str>) {
        self.iface = iface.map(str::to_owned);
    }

    /// Has daemon and `twillctl` be of this build from now on; the pins stay.
    pub fn set_build(&mut self, build: Build) {
        self.build = build;
    }

    /// Has a daemon of [`Build::Next`] die after so many steps of its start from now on.
    pub fn set_crash_after(&mut self, steps: Option<u32>) {
        self.crash_after = steps;
    }

    /// Has the daemon started with these further flags from now on; its pins stay.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    }

    /// Has the daemon started so from now on that it finds this folder's programs before others.
    pub fn set_programs(&mut self, folder: &Path) {
        self.programs = Some(folder.to_owned());
    }

    /// Has the daemon started with this variable in its environment from now on.
    pub fn set_variable(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.push((name.to_owned(), value.into()));
    }

    /// Starts the daemon, for the first time or again, and does not wait.
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new(self.build.binary("twilld")?);
        if let Some(steps) = self.crash_after {
            command.env(CRASH_AFTER, steps.to_string());
        }
        command
            .args(&self.store)
            .args(self.iface.iter().flat_map(|iface| ["--iface", iface]))
            .args(["--instance", &self.instance])
            .arg("--subnet-file")
            .arg(self.subnet_file())
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(&self.flags);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(first) = &self.programs {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = iter::once(first.clone()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(folders)?);
        }
        self.daemon = Some(Daemon::start(&self.namespace, command, &self.log())?);
        Ok(())
    }

    /// Waits until the daemon that was started last says that its node is as it should be,
    /// and has written `subnet.env`, which is given.
    pub fn wait_ready(&mut self) -> Result<SubnetEnv> {
        self.wait_ready_for(READY)
    }

    /// [`Self::wait_ready`] with more patience than usual: for many leases.
    pub fn wait_ready_for(&mut self, patience: Duration) -> Result<SubnetEnv> {
        let mut daemon = self.daemon.take().context("the agent is not running")?;
        let what = format!("{} is ready", self.instance);
        let pid = i64::from(daemon.pid()?.as_raw());
        let ready = daemon.wait_for(&what, patience, || {
            let told = self.status()?;
            let status = &told["status"];
            let same = status["pid"].as_i64() == Some(pid);
            Ok((same && status["ready"] == true).then_some(()))
        });
        self.daemon = Some(daemon);
        ready.and_then(|()| self.subnet_env())
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

    /// What `twillctl status --json` says, whatever its exit code makes of it.
    pub fn status(&self) -> Result<Value> {
        let mut command = self.ctl_command(&["status", "--json"])?;
        let output = self.namespace.enter(|| command.output())??;
        match output.status.code() {
            // Ready, no daemon, not ready yet: each with a document.
            Some(0 | 3 | 4) => serde_json::from_slice(&output.stdout)
                .with_context(|| format!("twillctl status printed {output:?}")),
            _ => bail!("twillctl status: {output:?}"),
        }
    }

    /// The programs' counters, zeroes too.
    pub fn counters(&self) -> Result<Counters> {
        let told = self.ctl(&["counters", "--all"])?;
        Counters::deserialize(&told).with_context(|| format!("twillctl counters tells {told}"))
    }

    /// What `twillctl … --json` says, for example of `vteps`.
    pub fn ctl(&self, words: &[&str]) -> Result<Value> {
        let text = self.ctl_text(&[words, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("twillctl {words:?} printed {text:?}"))
    }

    /// The changes that `twillctl permits watch` tells until it is ended after this time.
    pub fn watch_permits(&self, time: Duration) -> Result<Vec<Value>> {
        let mut command = self.ctl_command(&["permits", "watch", "--json"])?;
        command.stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = self.namespace.spawn(&mut command)?;
        std::thread::sleep(time);
        child.kill()?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().map(serde_json::from_str);
        lines
            .collect::<Result<_, _>>()
            .with_context(|| format!("twillctl permits watch printed {text:?}"))
    }

    /// What `twillctl` prints for people; an exit code other than 0 is an error.
    pub fn ctl_text(&self, words: &[&str]) -> Result<String> {
        let mut command = self.ctl_command(words)?;
        self.namespace.enter(|| command::run(&mut command))?
    }

    /// Has a `twillctl` of [`Build::Next`] die after so many steps; whether it did.
    pub fn ctl_cut_off(&self, words: &[&str], steps: u32) -> Result<bool> {
        let mut command = self.ctl_command(words)?;
        command.env(CRASH_AFTER, steps.to_string());
        let output = self.namespace.enter(|| command.output())??;
        if output.status.signal() == Some(Signal::SIGKILL as i32) {
            return Ok(true);
        }
        command::checked(&command, &output).map(|_| false)
    }

    fn ctl_command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(self.build.binary("twillctl")?);
        command
            .args(["--instance", &self.instance])
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(words);
        apart(&mut command);
        Ok(command)
    }

    /// The name of its pins.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The name of its nftables table, which begins its others' names as well.
    pub fn table(&self) -> String {
        format!("twill-{}", self.instance)
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

    /// Where it keeps what outlives a boot.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
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
