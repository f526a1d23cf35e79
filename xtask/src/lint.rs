//! `cargo xtask lint`: formatting and lints, warnings denied.

use anyhow::Result;

use crate::{abi, build, console, process, setup};

/// The command.
pub(crate) fn run() -> Result<()> {
    console::step("check the formatting");
    process::run(process::cargo().args(["fmt", "--all", "--check"]))?;

    console::step("compare docs/abi.md with the source");
    abi::check()?;

    console::step("lint everything that runs on the host");
    let host = [
        "--workspace",
        "--exclude",
        "twill-programs",
        "--all-targets",
    ];
    process::run(
        process::cargo()
            .arg("clippy")
            .args(host)
            .args(["--", "-D", "warnings"]),
    )?;

    console::step("lint the BPF programs, with their own compiler");
    let toolchain = setup::ensure()?;
    let mut clippy = toolchain.compiler.clippy();
    clippy.args(["--release", "--package", "twill-programs"]);
    build::environment(&mut clippy, &toolchain);
    // What they depend on was linted above, by the pinned toolchain.
    process::run(clippy.args(["--no-deps", "--", "-D", "warnings"]))?;

    console::step("check licences, sources and duplicates of what we depend on");
    if process::find("cargo-deny").is_some() {
        process::run(process::cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    } else {
        console::note("left out: cargo-deny is not installed (`cargo install cargo-deny`)");
    }
    console::step("no complaint");
    Ok(())
}
