//! `cargo xtask lint`: formatting and lints, warnings denied.

use anyhow::{Result, bail};

use crate::setup::Purpose;
use crate::{abi, build, chart, console, named_tests, process, seams, setup};

type Check = fn() -> Result<()>;

/// Every check, by what it says while it runs.
const CHECKS: [(&str, Check); 8] = [
    ("check the formatting", formatting),
    ("compare docs/abi.md with the source", abi::check),
    (
        "look for the tests that docs/compatibility.md names",
        named_tests::check,
    ),
    (
        "compare docs/kubernetes.md with the chart's values",
        chart::check,
    ),
    ("look for types of a backend outside of it", seams::check),
    ("lint everything that runs on the host", host),
    ("lint the BPF programs, with their own compiler", programs),
    ("check licences, sources and duplicates", dependencies),
];

/// The command: every check runs, also after one that failed.
pub(crate) fn run() -> Result<()> {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        console::step(name);
        if let Err(error) = check() {
            console::error(&error);
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join("; "));
    }
    console::step("no complaint");
    Ok(())
}

fn formatting() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
}

fn host() -> Result<()> {
    let everything = [
        "--workspace",
        "--exclude",
        "twill-programs",
        "--all-targets",
    ];
    let deny = ["--", "-D", "warnings"];
    process::run(process::cargo().arg("clippy").args(everything).args(deny))
}

fn programs() -> Result<()> {
    let toolchain = setup::ensure(Purpose::Machine)?;
    let mut clippy = toolchain.compiler.clippy();
    build::environment(&mut clippy, &toolchain);
    // What they depend on is linted with the host, by the pinned toolchain.
    let arguments = [
        "--release",
        "--package",
        "twill-programs",
        "--no-deps",
        "--",
    ];
    process::run(clippy.args(arguments).args(["-D", "warnings"]))
}

fn dependencies() -> Result<()> {
    if process::find("cargo-deny").is_none() {
        console::note("left out: cargo-deny is not installed (`cargo install cargo-deny`)");
        return Ok(());
    }
    process::run(process::cargo().args(["deny", "check", "bans", "licenses", "sources"]))
}
