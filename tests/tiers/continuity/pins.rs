//! Pins that somebody removes.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use twill_testbed::agent::Agent;
use twill_testbed::wait::wait_for;
use twill_tests::required;

use crate::scene::{PATIENCE, PROGRAMS, Scene};

#[test]
fn nobody_notices_that_pins_are_removed_by_hand() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(&[])?;
    scene.unnoticed("all pins removed by hand", |cluster| {
        let agent = &cluster.members[0].agent;
        let before = running(agent)?;
        fs::remove_dir_all(agent.pins())?;
        wait_pins(agent)?;
        ensure!(running(agent)? == before, "programs were taken away");
        Ok(())
    })?;
    scene.unnoticed(
        "all pins removed while the daemon is away, then a start",
        |cluster| {
            let agent = &mut cluster.members[0].agent;
            agent.kill()?;
            fs::remove_dir_all(agent.pins())?;
            agent.start_again()?;
            agent.wait_ready().map(drop)
        },
    )
}

#[test]
fn nobody_notices_that_the_bpf_file_system_is_unmounted() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(&[])?;
    // Threads that are started here, and processes that they start, have these mounts.
    let alone = || {
        let agent = &mut scene.node().agent;
        agent.stop()?;
        // Or they would keep their programs attached where nobody here sees them.
        fs::remove_dir_all(agent.pins())?;
        own_mounts()?;
        agent.start_again()?;
        agent.wait_ready()?;
        scene.unnoticed("bpffs unmounted under the daemon", |cluster| {
            let agent = &cluster.members[0].agent;
            wait_pins(agent)?;
            let before = running(agent)?;
            unmount()?;
            ensure!(!agent.pins().exists(), "nothing was unmounted");
            wait_pins(agent)?;
            ensure!(running(agent)? == before, "programs were taken away");
            Ok(())
        })?;
        scene.unnoticed(
            "bpffs unmounted while the daemon is away, then a start",
            |cluster| {
                let agent = &mut cluster.members[0].agent;
                agent.kill()?;
                unmount()?;
                agent.start_again()?;
                agent.wait_ready()?;
                wait_pins(agent)
            },
        )
    };
    std::thread::scope(|scope| match scope.spawn(alone).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// For a moment the daemon may have a file open there.
fn unmount() -> Result<()> {
    wait_for(
        "the BPF file system is unmounted",
        PATIENCE,
        || match umount2(BPFFS, MntFlags::empty()) {
            Err(Errno::EBUSY) => Ok(None),
            other => Ok(Some(other?)),
        },
    )
}

const BPFFS: &str = "/sys/fs/bpf";
const NOTHING: Option<&str> = None;

/// Gives this thread mounts of its own, with an empty BPF file system and none below it: the
/// machine's is not touched.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NOTHING, "/", NOTHING, private, NOTHING).context("make the mounts private")?;
    umount2(BPFFS, MntFlags::MNT_DETACH).context("let go of the machine's BPF file system")?;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), NOTHING).context("mount another")
}

/// Waits until every program's link, and the maps, are pinned.
fn wait_pins(agent: &Agent) -> Result<()> {
    wait_for("the pins are back", PATIENCE, || {
        let status = agent.ctl(&["status"])?;
        let attached = status["pins"]["attached"].as_array().map(Vec::len);
        ensure!(attached == Some(PROGRAMS), "{status}");
        Ok(Some(()))
    })
}

/// Identities of the attached programs, as the agent says.
fn running(agent: &Agent) -> Result<Vec<u64>> {
    let status = agent.ctl(&["status"])?;
    let attached = status["status"]["attached"].as_array();
    let ids = attached.context("no attached programs in the status")?;
    Ok(ids
        .iter()
        .filter_map(|one| one["program_id"].as_u64())
        .collect())
}
