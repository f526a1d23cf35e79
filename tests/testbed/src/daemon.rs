//! A process that runs beside the test, with its log in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::apart;
use crate::netns::{Namespace, report};
use crate::wait::wait_for;

/// Lines of a log that an error shows.
const SHOWN_LINES: usize = 40;
/// How long a daemon may take to end when it is asked to.
const STOP: Duration = Duration::from_secs(10);

/// Where Twill's binaries are: `TWILL_BIN_DIR`, which `cargo xtask` sets, else beside the
/// running program (a test is one folder deeper).
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("TWILL_BIN_DIR") {
        let path = PathBuf::from(folder).join(name);
        if path.is_file() {
            return Ok(path);
        }
        bail!("TWILL_BIN_DIR has no {name}: {}", path.display());
    }
    let program = std::env::current_exe()?;
    let mut folders = program.ancestors().skip(1).take(2);
    let found = folders.find_map(|folder| {
        let path = folder.join(name);
        path.is_file().then_some(path)
    });
    found.with_context(|| {
        format!("no {name}: `cargo xtask build` makes it, TWILL_BIN_DIR says where it is")
    })
}

/// One of Twill's binaries as the tests of upgrades want it, with the next ABI version and points
/// at which it can be cut off: in `TWILL_NEXT_BIN_DIR`, which `cargo xtask` sets.
pub fn next_binary(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("TWILL_NEXT_BIN_DIR")
        .context("TWILL_NEXT_BIN_DIR is not set: `cargo xtask test continuity` sets it")?;
    Ok(PathBuf::from(folder).join(name))
}

/// A running process, killed on drop.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts the command inside the namespace; what it writes is appended to `log`.
    pub fn start(namespace: &Namespace, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        apart(&mut command);
        Ok(Self {
            child: namespace.spawn(&mut command)?,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for `attempt` to give a value. That the daemon ends meanwhile is an error, and
    /// errors show the end of its log.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut attempt: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let child = &mut self.child;
        let mut end = None;
        let waited = wait_for(what, deadline, || {
            end = child.try_wait()?;
            match end {
                Some(_) => Ok(Some(None)),
                None => Ok(attempt()?.map(Some)),
            }
        });
        let outcome = waited.and_then(|value| {
            value.with_context(|| match end {
                Some(status) => format!("the process ended with {status} before {what}"),
                None => format!("the process ended before {what}"),
            })
        });
        outcome.map_err(|error| anyhow!("{error:#}\n\n{}", self.log_tail()))
    }

    /// Asks it to end (SIGTERM) and waits for that; one that does not is killed, and that is
    /// an error.
    pub fn stop(mut self) -> Result<ExitStatus> {
        kill(self.pid()?, Signal::SIGTERM).context("SIGTERM")?;
        let end = Instant::now() + STOP;
        // Not `wait_for`: cleaning up goes on after an interrupt.
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!(
                    "SIGTERM did not end the process in {STOP:?}\n{}",
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it (SIGKILL), as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The last lines of its log, with the file's name.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if std::thread::panicking() {
            report(&anyhow::Error::msg(self.log_tail()));
        }
        let killed = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = killed {
            report(&anyhow::Error::new(error).context("kill a daemon"));
        }
    }
}

/// The last lines of a log.
pub fn log_tail(log: &Path) -> String {
    let name = log.display();
    let text = match fs::read_to_string(log) {
        Ok(text) => text,
        Err(error) => return format!("{name}: {error}"),
    };
    let lines: Vec<_> = text.lines().collect();
    if lines.is_empty() {
        return format!("{name} is empty");
    }
    let shown = lines.len().saturating_sub(SHOWN_LINES);
    format!("end of {name}:\n{}", lines[shown..].join("\n"))
}
