//! Runs a delegate, as a runtime runs a plugin (containernetworking/cni 1.3, `pkg/invoke`).

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command as Process, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::error::{Code, PluginError};
use crate::protocol::{Call, Command};

/// A plugin that is just being written cannot be run: how often, and how long apart, it is tried
/// again, as the Go library does.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Runs the plugin `kind` with this config, and gives what it printed. The variables are those
/// that we were called with, but for the command, and for `others`.
pub(crate) fn run(
    call: &Call,
    command: Command,
    kind: &str,
    config: &[u8],
    others: &[(&str, &str)],
) -> Result<Vec<u8>, PluginError> {
    let program = find(call, kind)?;
    let mut process = Process::new(&program);
    process
        .env("CNI_COMMAND", command.name())
        .envs(others.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What it says there is for the runtime's log, as what we say.
        .stderr(Stdio::inherit());
    let output = finished(&mut process, config).map_err(|error| {
        PluginError::new(Code::Io, format!("run {}: {error}", program.display()))
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failure(&output))
}

/// The first folder of `CNI_PATH` that has it. A name with a folder in it is refused.
fn find(call: &Call, kind: &str) -> Result<PathBuf, PluginError> {
    if kind.is_empty() || kind.contains('/') {
        let words = format!("invalid plugin name: {kind:?}");
        return Err(PluginError::new(Code::InvalidConfig, words));
    }
    let found = call
        .folders
        .iter()
        .map(|folder| folder.join(kind))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        let folders: Vec<_> = call
            .folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        let words = format!(
            "failed to find plugin {kind:?} in path [{}]",
            folders.join(" ")
        );
        PluginError::new(Code::Internal, words)
    })
}

fn finished(process: &mut Process, config: &[u8]) -> io::Result<Output> {
    let mut tries = 0;
    let mut child = loop {
        match process.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES =>
            {
                tries += 1;
                thread::sleep(BUSY_PAUSE);
            }
            other => break other?,
        }
    };
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its config ends without it, and then says why.
        match stdin.write_all(config) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    child.wait_with_output()
}

/// What a plugin that failed said.
fn failure(output: &Output) -> PluginError {
    if output.stdout.trim_ascii().is_empty() {
        let words = format!("netplugin failed with no error message: {}", output.status);
        return PluginError::new(Code::Internal, words);
    }
    PluginError::from_delegate(&output.stdout).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stdout);
        let words =
            format!("netplugin failed but error parsing its diagnostic message {said:?}: {error}");
        PluginError::new(Code::Internal, words)
    })
}
