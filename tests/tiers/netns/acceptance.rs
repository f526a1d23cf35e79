//! What the fast path rests on, where `nft` does not do as it is told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use twill_testbed::cluster::Cluster;
use twill_testbed::wait::wait_until;
use twill_testbed::world::NODE_A;
use twill_tests::required;

use crate::agent_daemon::{SECONDS, wait_mode};

/// An `nft` that fails to write or list our table as long as there is a line in the file `lives`
/// of its folder, and takes one away each time.
fn failing_nft(folder: &Path, failures: usize) -> Result<()> {
    let lives = folder.join("lives");
    fs::create_dir_all(folder)?;
    fs::write(&lives, "x\n".repeat(failures))?;
    let script = format!(
        r#"#!/bin/sh
         input=$(mktemp) && trap 'rm -f "$input"' EXIT
         [ "$2" = -f ] && cat >"$input"
         case "$* $(cat "$input")" in
         *.timeouts*) ;;
         *permits*|*"list table inet twill"*)
             if [ -s {lives} ]; then sed -i 1d {lives}; echo out of sorts >&2; exit 1; fi ;;
         esac
         PATH=${{PATH#*:}}; nft "$@" <"$input"
         "#,
        lives = lives.display()
    );
    let nft = folder.join("nft");
    fs::write(&nft, script)?;
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[test]
fn a_restart_at_which_nft_fails_once_keeps_the_fast_path() -> Result<()> {
    check(1, false)
}

#[test]
fn an_nft_that_fails_twice_ends_the_fast_path_and_one_that_works_brings_it_back() -> Result<()> {
    check(3, true)
}

/// Restarts an agent while `nft` fails so many times; it must be all right again soon, long
/// before it looks at everything once more.
fn check(failures: usize, goes_off: bool) -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = Cluster::of(&[("a", NODE_A)])?;
    let member = &mut cluster.members[0];
    wait_mode(&member.agent, "bpf")?;
    let folder = member.node.directory().join("programs");
    failing_nft(&folder, failures)?;
    member.agent.stop()?;
    member.agent.set_programs(&folder);
    member.agent.set_flags(&["--resync-interval", "3600"]);
    member.agent.start_again()?;
    member.agent.wait_ready()?;
    wait_until("the fast path has no trouble", SECONDS, || {
        let status = member.agent.status().unwrap_or_default();
        let fast_path = &status["status"]["fast_path"];
        fs::read(folder.join("lives")).is_ok_and(|lives| lives.is_empty())
            && fast_path["mode"] == "permit"
            && fast_path["reason"].is_null()
    })?;
    let log = member.agent.log_tail();
    ensure!(log.contains("out of sorts"), "nft did not fail: {log}");
    ensure!(
        log.contains("the fast path is off") == goes_off,
        "after {failures} failures: {log}"
    );
    Ok(())
}
