//! Whether this process may do what a tier or the demo needs.

use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::process;

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Fails with one sentence unless this process is root. `task` is what needs it.
pub(crate) fn require_root(task: &str) -> Result<()> {
    if !is_root() {
        bail!("{task} makes network namespaces and loads BPF programs: run it as root");
    }
    Ok(())
}

/// Fails with one sentence unless root may make network namespaces and use BPF here. It asks
/// by tools that `setup` sees to.
pub(crate) fn require_kernel(task: &str) -> Result<()> {
    for (needs, words) in [
        ("make network namespaces", ["unshare", "--net", "true"]),
        ("use BPF", ["bpftool", "prog", "show"]),
    ] {
        let [program, arguments @ ..] = words;
        let program = process::find(program).unwrap_or_else(|| program.into());
        if process::probe(Command::new(program).args(arguments)).is_none() {
            bail!(
                "{task} must be able to {needs}, and this kernel or container does not let root \
                 do it (`{}` fails)",
                words.join(" ")
            );
        }
    }
    Ok(())
}
