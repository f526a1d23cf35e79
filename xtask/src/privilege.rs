//! Whether this process may do what a tier or the demo needs.

use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::process;

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Fails with one sentence unless this process is root and may make network namespaces and
/// use BPF. `task` is what needs it, as the user typed it.
pub(crate) fn require(task: &str) -> Result<()> {
    if !is_root() {
        bail!("{task} makes network namespaces and loads BPF programs: run it as root");
    }
    if process::probe(Command::new("unshare").args(["--net", "true"])).is_none() {
        bail!(
            "{task} makes network namespaces, and this kernel or container does not let root \
             make one (`unshare --net true` fails)"
        );
    }
    let bpftool = process::find("bpftool").unwrap_or_else(|| "bpftool".into());
    if process::probe(Command::new(bpftool).args(["prog", "show"])).is_none() {
        bail!(
            "{task} loads BPF programs, and this kernel or container does not let root use BPF \
             (`bpftool prog show` fails)"
        );
    }
    Ok(())
}
