//! A real Docker, to try on the node's subnet: Debian's packages, unpacked into the cache and not
//! installed, for installing them starts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{console, places, process};

/// Tells tests where it is unpacked.
pub(crate) const VARIABLE: &str = "TWILL_DOCKER";

/// The daemon and all that a container needs, up to a program for it to run.
const PACKAGES: [&str; 5] = [
    "docker.io",
    "containerd",
    "runc",
    "libdevmapper1.02.1",
    "busybox-static",
];
/// The last that is there of them.
const DAEMON: &str = "usr/sbin/dockerd";

/// Where it is unpacked; fetches it if it is not there.
pub(crate) fn provide() -> Result<PathBuf> {
    let folder = places::cache()?.join("docker");
    if process::is_executable(&folder.join(DAEMON)) {
        return Ok(folder);
    }
    console::step("fetch Docker, to try on the node's subnet (100 MB, 1 min)");
    unpack(&folder).context("fetch Docker")?;
    Ok(folder)
}

fn unpack(folder: &Path) -> Result<()> {
    // Somebody else may fetch it at the same time.
    let partial = folder.with_extension(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&partial).with_context(|| format!("make {}", partial.display()))?;
    let fetch = |program: &mut Command| process::run(program.current_dir(&partial));
    let download = || {
        fetch(
            Command::new("apt-get")
                .args(["download", "-q"])
                .args(PACKAGES),
        )
    };
    if download().is_err() {
        fetch(Command::new("apt-get").args(["update", "-q"]))?;
        download()?;
    }
    let root = partial.join("root");
    for entry in fs::read_dir(&partial).context("list the packages")? {
        let package = entry.context("list the packages")?.path();
        if package.extension().is_some_and(|kind| kind == "deb") {
            fetch(Command::new("dpkg").arg("-x").arg(&package).arg(&root))?;
        }
    }
    fs::rename(&root, folder).with_context(|| format!("make {}", folder.display()))?;
    fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))
}
