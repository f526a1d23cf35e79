//! The cache of kernels: image and modules of each, ready for an initramfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use super::packages::Apt;
use crate::{console, places, process};

/// Folders of modules that a guest gets, below `kernel/`: the network, and what it builds on.
const MODULES: [&str; 6] = [
    "net",
    "drivers/net",
    "drivers/virtio",
    "lib",
    "crypto",
    "arch/x86/crypto",
];

/// A kernel that is here.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// What it is.
    pub(super) kernel: &'static Kernel,
    /// What `uname -r` says on it.
    pub(super) release: String,
    /// The image.
    pub(super) image: PathBuf,
    /// The folder that is `/` to its modules.
    pub(super) modules: PathBuf,
}

/// Where kernels are kept.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(places::cache()?.join("kernels"))
}

/// Makes sure that all of `kernels` are in the cache. One that cannot be had is an error:
/// a kernel that is left out silently proves nothing.
pub(super) fn provide(kernels: &[&'static Kernel]) -> Result<Vec<Stored>> {
    let store = folder()?;
    let missing: Vec<_> = kernels
        .iter()
        .copied()
        .filter(|kernel| !store.join(kernel.series).is_dir())
        .collect();
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|kernel| kernel.series).collect();
        let apt = Apt::open(&store.join("apt"), &missing)
            .with_context(|| format!("the kernels {} cannot be had", names.join(", ")))?;
        for kernel in missing {
            fetch(&apt, &store, kernel)
                .with_context(|| format!("the kernel {} cannot be had", kernel.series))?;
        }
    }
    kernels.iter().map(|kernel| open(&store, kernel)).collect()
}

fn fetch(apt: &Apt, store: &Path, kernel: &Kernel) -> Result<()> {
    let unpacked = store.join(format!("{}.unpacked", kernel.series));
    let partial = store.join(format!("{}.partial", kernel.series));
    for left in [&unpacked, &partial] {
        if left.exists() {
            fs::remove_dir_all(left).with_context(|| format!("remove {}", left.display()))?;
        }
    }
    apt.unpack(kernel, &unpacked)?;
    let (release, modules) = modules_in(&unpacked)?;
    let target = partial.join("lib/modules").join(&release);
    for folder in MODULES {
        copy_modules(
            &modules.join("kernel").join(folder),
            &target.join("kernel").join(folder),
        )?;
    }
    for name in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        if modules.join(name).is_file() {
            copy(&modules.join(name), &target.join(name))?;
        }
    }
    process::run(Command::new("depmod").arg("-b").arg(&partial).arg(&release))?;
    let images = [
        unpacked.join(format!("boot/vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ];
    let Some(image) = images.iter().find(|image| image.is_file()) else {
        bail!("the packages have no image of {release}");
    };
    copy(image, &partial.join("vmlinuz"))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))?;
    // Whole or not at all: this is what says that the kernel is here.
    let done = store.join(kernel.series);
    fs::rename(&partial, &done).with_context(|| format!("make {}", done.display()))
}

fn open(store: &Path, kernel: &'static Kernel) -> Result<Stored> {
    let directory = store.join(kernel.series);
    let (release, _) = modules_in(&directory)?;
    console::note(&format!("{}: {release}", kernel.series));
    Ok(Stored {
        kernel,
        release,
        image: directory.join("vmlinuz"),
        modules: directory,
    })
}

/// The release and the folder of the modules in an unpacked package.
fn modules_in(root: &Path) -> Result<(String, PathBuf)> {
    for place in ["lib/modules", "usr/lib/modules"] {
        let Ok(mut entries) = fs::read_dir(root.join(place)) else {
            continue;
        };
        if let Some(entry) = entries.next() {
            let entry = entry.context("list modules")?;
            let release = entry.file_name().to_string_lossy().into_owned();
            return Ok((release, entry.path()));
        }
    }
    bail!("{} has no modules", root.display())
}

/// Copies every module below `from`, unpacked: not every kernel unpacks modules itself.
fn copy_modules(from: &Path, to: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry.context("list modules")?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            copy_modules(&path, &to.join(name))?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            copy(&path, &to.join(name))?;
        } else if path.extension().is_some_and(|extension| extension == "xz") {
            let target = to.join(name);
            copy(&path, &target)?;
            process::run(Command::new("xz").arg("--decompress").arg(&target))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}
