//! A network namespace that lives as long as its value.
//!
//! Processes are started from a thread that has entered the namespace, not by
//! `ip netns exec`: that mounts a fresh `/sys`, without the bpffs on `/sys/fs/bpf`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command;

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
/// How long a killed process may take to go.
const DEATH: Duration = Duration::from_secs(5);

/// `ip netns add` and `del` move mounts about; two at once can trip over each other.
static NETNS_COMMAND: Mutex<()> = Mutex::new(());
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The beginning of the names of things that belong together: `tw-<pid>-<n>`, by which
/// the next run knows what a dead one left, or a fixed one for what is to stay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Prefix(String);

impl Prefix {
    /// A prefix that nobody else has: `tw-<pid>-<n>`.
    pub fn unique() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("tw-{}-{number}", std::process::id()))
    }

    /// A prefix that outlives this process; [`crate::sweep`] leaves such things alone.
    pub fn fixed(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The full name of `label` under this prefix.
    pub fn name(&self, label: &str) -> String {
        format!("{}-{label}", self.0)
    }

    /// The prefix itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A network namespace with `lo` up, deleted on drop together with the processes in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with a unique name that ends in `label`.
    pub fn new(label: &str) -> Result<Self> {
        Self::under(&Prefix::unique(), label)
    }

    /// Makes the namespace `<prefix>-<label>`; it is an error if there is one.
    pub fn under(prefix: &Prefix, label: &str) -> Result<Self> {
        crate::sweep::once();
        let name = prefix.name(label);
        netns_command("add", &name)?;
        let namespace = Self { name };
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name that `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it, as `CNI_NETNS` wants it.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets opened there stay
    /// in the namespace wherever they are used later. A panic in `work` is passed on.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        let inside = || setns(&file, CloneFlags::CLONE_NEWNET).map(|()| work());
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result.with_context(|| format!("enter the namespace {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Opens the namespace, for threads that outlive a call: [`enter_file`] goes in.
    pub fn open(&self) -> Result<File> {
        let path = self.path();
        File::open(&path).with_context(|| format!("open {}", path.display()))
    }

    /// Runs a program inside to its end and gives its standard output.
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        let mut command = command::command(words)?;
        self.enter(|| command::run(&mut command))?
            .with_context(|| format!("in the namespace {}", self.name))
    }

    /// Runs several programs, one a line, words parted by blanks.
    pub fn run_lines(&self, lines: &str) -> Result<()> {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.run(&line.split_whitespace().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Starts a program inside.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.enter(|| command.spawn())?.with_context(|| {
            format!(
                "start {} in the namespace {}",
                command::spelled(command),
                self.name
            )
        })
    }

    /// Reads a sysctl, for example `net.ipv4.ip_forward`, without its line end.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        let text = self
            .enter(|| fs::read_to_string(&path))?
            .with_context(|| format!("read {}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// Writes a sysctl.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("write {value:?} to {}", path.display()))
    }

    /// What `ip -json -details -stats link show` says of one link.
    pub fn link_json(&self, link: &str) -> Result<serde_json::Value> {
        let text = self.run(&["ip", "-json", "-details", "-stats", "link", "show", link])?;
        let list: serde_json::Value = serde_json::from_str(&text)?;
        list.get(0)
            .cloned()
            .with_context(|| format!("no link {link} in {}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            report(&error);
        }
    }
}

/// Goes into the namespace with the calling thread, which must not come out again.
pub fn enter_file(file: &File) -> Result<()> {
    setns(file, CloneFlags::CLONE_NEWNET).context("enter a namespace")
}

/// Names of all namespaces that begin with `prefix`.
pub fn names_with(prefix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(NAMES) {
        Ok(entries) => entries,
        // No namespace was ever made.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {NAMES}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Ends the processes in a namespace that this package made, and deletes it.
pub fn delete(name: &str) -> Result<()> {
    kill_processes(name)?;
    netns_command("del", name)
}

fn path_of(name: &str) -> PathBuf {
    PathBuf::from(NAMES).join(name)
}

fn sysctl_path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key.replace('.', "/"))
}

fn netns_command(verb: &str, name: &str) -> Result<()> {
    // A panic elsewhere leaves nothing half done that this lock protects.
    let _guard = NETNS_COMMAND
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    command::run(&mut command::command(&["ip", "netns", verb, name])?).map(drop)
}

fn kill_processes(name: &str) -> Result<()> {
    for pid in processes(name)? {
        match kill(pid, Signal::SIGKILL) {
            // Gone by itself since it was listed.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => bail!("kill process {pid} in the namespace {name}: {error}"),
        }
    }
    wait_gone(name)
}

fn wait_gone(name: &str) -> Result<()> {
    let end = Instant::now() + DEATH;
    // Not `wait_until`: cleaning up goes on after an interrupt.
    loop {
        let left = processes(name)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("processes {left:?} in the namespace {name} do not die");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes in the namespace, this one never among them.
fn processes(name: &str) -> Result<Vec<Pid>> {
    let text = command::run(&mut command::command(&["ip", "netns", "pids", name])?)?;
    text.lines()
        .map(|line| {
            let pid = line.trim().parse::<i32>();
            pid.map(Pid::from_raw)
                .with_context(|| format!("`ip netns pids` says {line:?}"))
        })
        .filter(|pid| !matches!(pid, Ok(pid) if *pid == Pid::this()))
        .collect()
}

/// Tells of an error where none can be returned.
#[expect(clippy::print_stderr, reason = "drop has nobody to return an error to")]
pub(crate) fn report(error: &anyhow::Error) {
    eprintln!("testbed: cleaning up: {error:#}");
}
