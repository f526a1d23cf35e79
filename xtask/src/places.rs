//! Where things are: the workspace, what is built in it, and the cache outside of it.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The workspace's root. This program runs on the machine that built it.
pub(crate) fn root() -> &'static Path {
    const MANIFEST: &str = env!("CARGO_MANIFEST_DIR");
    Path::new(MANIFEST).parent().unwrap_or(Path::new("."))
}

/// Where cargo builds the BPF programs, apart from everything for the host.
pub(crate) fn bpf_target() -> PathBuf {
    root().join("target/bpf")
}

/// The built BPF programs at a path that does not change; `agent/datapath/build.rs` embeds them from here.
pub(crate) fn bpf_object() -> PathBuf {
    bpf_target().join("twill.o")
}

/// Where what takes long to build is kept, outside of `target/`: `TWILL_CACHE`, else
/// `twill` in the user's cache folder.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("TWILL_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("twill")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/twill")))
        .context("no cache folder: none of TWILL_CACHE, XDG_CACHE_HOME and HOME is set")
}
