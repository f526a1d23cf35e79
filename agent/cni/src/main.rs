//! The CNI plugin `flannel`: what a container runtime calls for each pod, by the config that
//! flannel's manifests install. It reads the node's subnet from `subnet.env`, makes a config for
//! the delegate (the plugin `bridge`, unless the config names another), and lets the delegate do
//! the work.
//!
//! The contract is flannel's own plugin, v1.9.1-flannel3: its config, files, results and errors.
//! `docs/compatibility.md` names what differs. The plugin never talks to a network and needs no
//! daemon.

#![forbid(unsafe_code)]

mod chain;
mod commands;
mod config;
mod delegate;
mod error;
mod fast_path;
mod invoke;
mod protocol;
mod state;
mod subnet_env;
mod version;

use std::io::{self, Read as _};
use std::process::ExitCode;

use error::{Code, PluginError};
use protocol::{Command, Environment};

/// A network config of more bytes than this is none.
const MOST_INPUT: u64 = 4 << 20;

fn main() -> ExitCode {
    let environment = Environment::of_process();
    if environment.command.is_none() {
        return written(&mut io::stderr(), &about());
    }
    match run(&environment) {
        Ok(output) => written(&mut io::stdout(), &output),
        Err(error) => {
            let _said = written(&mut io::stdout(), &error.to_json());
            ExitCode::FAILURE
        }
    }
}

/// What the plugin prints on standard output.
fn run(environment: &Environment) -> Result<Vec<u8>, PluginError> {
    let call = environment.call()?;
    if call.command == Command::Version {
        return Ok(version::reply());
    }
    let mut input = Vec::new();
    io::stdin()
        .take(MOST_INPUT)
        .read_to_end(&mut input)
        .map_err(|error| {
            PluginError::new(Code::Io, format!("error reading from stdin: {error}"))
        })?;
    commands::run(&call, &input)
}

/// What somebody sees who starts the plugin by hand.
fn about() -> Vec<u8> {
    format!(
        "CNI Plugin flannel version v{} (linux/{}), of Twill\n\
         CNI protocol versions supported: {}\n",
        env!("CARGO_PKG_VERSION"),
        go_arch(),
        version::SUPPORTED.join(", ")
    )
    .into_bytes()
}

/// The processor's name as Go and container images have it.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes everything; a runtime that does not listen is a failure.
fn written(to: &mut dyn io::Write, text: &[u8]) -> ExitCode {
    match to.write_all(text).and_then(|()| to.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
