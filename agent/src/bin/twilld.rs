//! The daemon.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "what ends the daemon is told even where nothing is logged"
)]

use std::process::ExitCode;

use clap::Parser as _;
use twill_agent::args::{Command, Twilld};
use twill_agent::run;

fn main() -> ExitCode {
    let Twilld {
        command,
        agent,
        log,
    } = Twilld::parse();
    let ended = run::logging(&log).and_then(|()| match command {
        Some(Command::Serve(args)) => run::block_on(run::serve(args)),
        None => run::block_on(run::run(&agent)),
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twilld: {error:#}");
            ExitCode::FAILURE
        }
    }
}
