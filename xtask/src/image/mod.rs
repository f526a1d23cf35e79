//! `cargo xtask image`: the image as an OCI archive, without a container engine.
//!
//! Twill's programs, the files of `xtask/image/root`, and what `xtask/image/contents` takes out
//! of Debian's packages. The same programs and packages give the same bytes.

mod archive;
mod contents;
mod elf;
mod packages;
mod rootfs;
mod sbom;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use self::archive::{Archive, Description};
use self::contents::Contents;
use self::rootfs::Rootfs;
use crate::build::{self, Built, Profile};
use crate::{console, places, process, setup};

/// Tells tests where the archive is.
pub(crate) const VARIABLE: &str = "TWILL_IMAGE";
/// What the image is called, as the chart has it.
pub(crate) const NAME: &str = concat!("localhost/twill:", env!("CARGO_PKG_VERSION"));

/// What `image` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Take programs that are not optimised: a larger image, in less time
    #[arg(long)]
    debug: bool,
    /// The image's name; the chart has the default
    #[arg(long, value_name = "NAME:TAG", default_value = NAME)]
    name: String,
}

/// The command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let profile = if args.debug {
        Profile::DEBUG
    } else {
        Profile::RELEASE
    };
    let built = build::build(&setup::toolchain()?, profile)?;
    let file = make(&built, &args.name)?;
    let size = fs::metadata(&file).map_or(0, |it| it.len());
    #[expect(clippy::cast_precision_loss, reason = "for a person")]
    let megabytes = size as f64 / 1e6;
    console::result(&format!(
        "{}: {}, {megabytes:.1} MB; take it with `ctr images import` or `docker load -i`",
        file.display(),
        args.name
    ));
    Ok(())
}

/// Makes the image of these programs and gives its archive; the list of what is in it is beside
/// it.
pub(crate) fn make(built: &Built, name: &str) -> Result<PathBuf> {
    console::step("make the image");
    let folder = places::root().join("target/image");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let contents = Contents::read(&places::root().join("xtask/image/contents"))?;
    let packages = packages::provide(&contents.packages())?;
    let mut rootfs = Rootfs::default();
    rootfs.folders();
    rootfs.overlay(&places::root().join("xtask/image/root"))?;
    for (program, path) in [
        ("twilld", "/usr/bin/twilld"),
        ("twillctl", "/usr/bin/twillctl"),
        ("flannel", "/flannel"),
    ] {
        let stripped = stripped(&built.binaries.join(program), &folder)?;
        rootfs.program(path, stripped);
    }
    rootfs.fill(&contents, &packages)?;
    let time = time()?;
    let bill = sbom::document(&rootfs, &packages, time)?;
    rootfs.file("/usr/share/sbom/twill.spdx.json", bill.clone());
    let description = Description {
        name,
        time,
        revision: &revision(),
    };
    let archive = Archive::new(&rootfs.layer(time)?, &description)?;
    let architecture = archive::architecture();
    let file = folder.join(format!(
        "twill-{}-{architecture}.tar",
        env!("CARGO_PKG_VERSION")
    ));
    write(&file, &archive.bytes(time)?)?;
    write(&folder.join("twill.spdx.json"), &bill)?;
    Ok(file)
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let partial = file.with_extension(format!("partial-{}", std::process::id()));
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, file))
        .with_context(|| format!("write {}", file.display()))
}

/// A program without what only a debugger reads; its symbols stay, for the lines of a panic.
fn stripped(program: &Path, folder: &Path) -> Result<Vec<u8>> {
    let copy = folder.join(format!("stripped-{}", std::process::id()));
    let mut command = std::process::Command::new("strip");
    command
        .args(["--strip-debug", "-o"])
        .arg(&copy)
        .arg(program);
    process::run(&mut command).context("without debug information (strip is in binutils)")?;
    let bytes = fs::read(&copy).with_context(|| format!("read {}", copy.display()))?;
    fs::remove_file(&copy).with_context(|| format!("remove {}", copy.display()))?;
    Ok(bytes)
}

/// When everything in the image is from, in seconds since 1970: `SOURCE_DATE_EPOCH`, else the
/// commit.
fn time() -> Result<u64> {
    if let Ok(text) = env::var("SOURCE_DATE_EPOCH") {
        return text
            .parse()
            .context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let text = git(&["log", "-1", "--format=%ct"]);
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// The commit, where this is a clone.
fn revision() -> String {
    git(&["rev-parse", "HEAD"]).unwrap_or_default()
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut command = std::process::Command::new("git");
    command.current_dir(places::root()).args(arguments);
    process::probe(&mut command).map(|text| text.trim().to_owned())
}
