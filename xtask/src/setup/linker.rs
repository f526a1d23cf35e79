//! bpf-linker: links the programs' bitcode into one BPF object with BTF.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{places, process};

/// The version that goes with the pinned Rust and aya.
pub(super) const VERSION: &str = "0.13.0";

/// Where `setup` installs it: below the cache, named by its version.
pub(super) fn install_root(cache: &Path) -> PathBuf {
    cache.join(format!("bpf-linker-{VERSION}"))
}

/// The one that `setup` installed, else one on `PATH`, if it has the right version.
pub(super) fn find() -> Result<Option<PathBuf>> {
    let ours = install_root(&places::cache()?).join("bin/bpf-linker");
    let candidates = [Some(ours), process::find("bpf-linker")];
    Ok(candidates
        .into_iter()
        .flatten()
        .find(|file| has_the_version(file)))
}

fn has_the_version(file: &Path) -> bool {
    process::is_executable(file)
        && process::probe(Command::new(file).arg("--version"))
            .is_some_and(|text| is_the_version(&text))
}

fn is_the_version(text: &str) -> bool {
    text.split_whitespace().eq(["bpf-linker", VERSION])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_not_taken() {
        assert!(is_the_version("bpf-linker 0.13.0\n"));
        for text in [
            "bpf-linker 0.13.00\n",
            "bpf-linker 0.10.4\n",
            "0.13.0\n",
            "",
        ] {
            assert!(!is_the_version(text), "{text:?}");
        }
    }
}
