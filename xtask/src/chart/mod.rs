//! `cargo xtask chart`: what is made from the chart is as the chart says: the plain manifest, and
//! the table of its values in the documents.

mod manifest;
mod values;

use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::PathBuf;

use crate::{console, places, setup};

/// What `chart` takes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Write them anew
    #[arg(long)]
    bless: bool,
}

/// A file, what is in it, and what should be.
struct Made {
    file: PathBuf,
    is: String,
    should: String,
}

/// The command.
pub(crate) fn run(args: Args) -> Result<()> {
    let helm = setup::helm::provide()?;
    for made in [document()?, manifest::made(&helm)?] {
        if !args.bless {
            made.check()?;
        } else if made.is != made.should {
            fs::write(&made.file, made.should)
                .with_context(|| format!("write {}", made.file.display()))?;
            console::result(&format!("wrote {}", made.file.display()));
        }
    }
    console::result("what is made from charts/twill is as the chart says");
    Ok(())
}

/// The part that needs no Helm: the versions agree, and the table of values is the schema's.
pub(crate) fn check() -> Result<()> {
    values::same_version()?;
    document()?.check()
}

fn document() -> Result<Made> {
    let file = places::root().join("docs/kubernetes.md");
    let is = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let should = values::document(&is)?;
    Ok(Made { file, is, should })
}

impl Made {
    fn check(&self) -> Result<()> {
        if self.is == self.should {
            return Ok(());
        }
        bail!(
            "{} is not what charts/twill says: `cargo xtask chart --bless`",
            self.file.display()
        )
    }
}
