//! The daemon.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "what ends the daemon is told even where nothing is logged"
)]

use std::process::ExitCode;

use twill_agent::args::{Command, Twilld};
use twill_agent::run;

fn main() -> ExitCode {
    let (parsed, ignored) = match run::command_line() {
        Ok(read) => read,
        // Help and version are answers, not errors: clap knows what goes where.
        Err(error) => error.exit(),
    };
    let Twilld {
        command,
        agent,
        log,
    } = parsed;
    let ended = run::logging(&log, &ignored).and_then(|()| match command {
        Some(Command::Serve(args)) => run::block_on(run::serve(args)),
        Some(Command::MkDockerOpts(args)) => run::block_on(run::mk_docker_opts(&args)),
        Some(Command::Podcidr(args)) => run::block_on(run::podcidr(*args)),
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
