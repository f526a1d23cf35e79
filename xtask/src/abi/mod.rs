//! `cargo xtask abi`: docs/abi.md says to the byte what kernel and userspace share, and is
//! compared with the source, so that no change of it goes unseen.

mod document;
mod released;
mod structs;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use twill_abi::ABI_VERSION;

use crate::{console, places};

/// What `abi` takes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Write docs/abi.md anew, unless this ABI version was released with another content
    #[arg(long)]
    bless: bool,
}

/// The command.
pub(crate) fn run(args: Args) -> Result<()> {
    if !args.bless {
        check()?;
        console::result("docs/abi.md is as the source says");
        return Ok(());
    }
    let file = file();
    let new = document::render();
    let old = fs::read_to_string(&file).unwrap_or_default();
    let changelog = places::root().join("CHANGELOG.md");
    let changelog =
        fs::read_to_string(&changelog).with_context(|| format!("read {}", changelog.display()))?;
    if document::border(&old) != document::border(&new)
        && document::version(&old) == Some(ABI_VERSION)
        && released::versions(&changelog).contains(&ABI_VERSION)
    {
        bail!(
            "the layout changed, and ABI_VERSION {ABI_VERSION} is a released one (CHANGELOG.md): \
             raise ABI_VERSION in ebpf/abi/src/lib.rs"
        );
    }
    fs::write(&file, new).with_context(|| format!("write {}", file.display()))?;
    console::result(&format!("wrote {}", file.display()));
    Ok(())
}

/// Fails when docs/abi.md is not what the source says.
pub(crate) fn check() -> Result<()> {
    let file = file();
    let old = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let new = document::render();
    if old == new {
        return Ok(());
    }
    let difference = first_difference(&old, &new);
    bail!(
        "docs/abi.md is not what ebpf/abi says{difference}\n\
         raise ABI_VERSION if it was released with this layout, then `cargo xtask abi --bless`"
    )
}

fn file() -> PathBuf {
    places::root().join("docs/abi.md")
}

fn first_difference(old: &str, new: &str) -> String {
    let place = old
        .lines()
        .zip(new.lines())
        .position(|(old, new)| old != new);
    let place = place.unwrap_or_else(|| old.lines().count().min(new.lines().count()));
    let line = |text: &str| text.lines().nth(place).unwrap_or("(end)").to_owned();
    format!(
        ", line {}:\n  file:   {}\n  source: {}",
        place + 1,
        line(old),
        line(new)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_as_the_source_says() {
        check().unwrap();
    }

    #[test]
    fn the_first_difference_is_shown() {
        assert_eq!(
            first_difference("a\nb\n", "a\nc\n"),
            ", line 2:\n  file:   b\n  source: c"
        );
        assert_eq!(
            first_difference("a\n", "a\nc\n"),
            ", line 2:\n  file:   (end)\n  source: c"
        );
    }
}
