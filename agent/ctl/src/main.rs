//! The operator's tool.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "errors are told to the person who asked"
)]

use std::process::ExitCode;

use clap::Parser as _;
use twill_ctl::Ctl;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match twill_ctl::run(&Ctl::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("twillctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}
