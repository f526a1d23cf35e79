//! What a person types: `cargo xtask setup`, `build`, `demo`, `test`, `bench`, `lint`, `abi`.
//!
//! Everything that continuous integration does is one of these commands. This program
//! depends on `twill-abi` alone and runs everything else as a process. Progress goes to
//! standard error, results go to standard output.

#![forbid(unsafe_code)]

mod abi;
mod bench;
mod build;
mod chart;
mod console;
mod demo;
mod fuzz;
mod image;
mod interrupt;
mod kernels;
mod lint;
mod named_tests;
mod places;
mod privilege;
mod process;
mod seams;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Twill's tasks: prepare this machine, build, show, test.
///
/// Start with `cargo xtask demo`: it prepares and builds what it needs, and says so.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find what building and testing need; install what is missing
    ///
    /// On Debian and Ubuntu, as root, it installs. Elsewhere, or as another user, it prints
    /// the commands to run and fails. With nothing to do it takes a moment.
    Setup,
    /// Build the BPF programs, then twilld and twillctl with the programs embedded
    Build(build::Args),
    /// Run the tests, tier by tier; all but `kernels` when none is named
    Test(test::Args),
    /// Check formatting and lints, warnings denied
    Lint,
    /// Three nodes on this machine, pods that talk over Twill, measured (needs root)
    Demo(demo::Args),
    /// Overlays side by side on this machine, measured in turns (needs root)
    Bench(bench::Args),
    /// Noise for the parsers of what others write, from a stored corpus
    Fuzz(fuzz::Args),
    /// Compare docs/abi.md with the types that kernel and userspace share
    Abi(abi::Args),
    /// Compare the plain manifest and the table of values with charts/twill
    Chart(chart::Args),
    /// Make the image as an OCI archive, without a container engine
    Image(image::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            console::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::run()?,
        Task::Build(args) => build::run(args)?,
        Task::Test(args) => return test::run(&args),
        Task::Lint => lint::run()?,
        Task::Demo(args) => return demo::run(args),
        Task::Bench(args) => return bench::run(&args),
        Task::Fuzz(args) => fuzz::run(&args)?,
        Task::Abi(args) => abi::run(args)?,
        Task::Chart(args) => chart::run(args)?,
        Task::Image(args) => image::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
