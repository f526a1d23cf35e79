//! The programs of this machine that the tiers run, with the libraries they need.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{process, setup};

/// Programs that tests start. busybox has the rest.
const NAMES: [&str; 17] = [
    "ip",
    "tc",
    "ss",
    "bridge",
    "nft",
    "iptables",
    "iptables-restore",
    "iptables-save",
    "iperf3",
    "ethtool",
    "tcpdump",
    "conntrack",
    "ipvsadm",
    "bpftool",
    "jq",
    "setpriv",
    "unshare",
];

/// Where programs are in a guest.
pub(super) const PROGRAMS: &str = "/usr/bin";
/// Where busybox is in a guest.
pub(super) const BUSYBOX: &str = "/usr/bin/busybox";
/// Where CNI plugins are in a guest.
pub(super) const PLUGINS_FOLDER: &str = "/usr/lib/cni";
/// Extensions of iptables, which it opens when a rule names them.
const XTABLES: &str = "/usr/lib/x86_64-linux-gnu/xtables";
/// CNI plugins that tests start.
const PLUGINS: [&str; 6] = [
    "bridge",
    "host-local",
    "ptp",
    "portmap",
    "loopback",
    "bandwidth",
];

/// A file of this machine and where a guest finds it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Copy {
    pub(super) inside: String,
    pub(super) file: PathBuf,
}

/// Every program and every library, once.
pub(super) fn all() -> Result<BTreeSet<Copy>> {
    let mut files = BTreeSet::new();
    let busybox = process::find("busybox").context("busybox is not there")?;
    add(&mut files, &busybox, BUSYBOX.to_owned());
    for program in NAMES {
        let file = process::find(program).with_context(|| format!("{program} is not there"))?;
        add(&mut files, &file, format!("{PROGRAMS}/{program}"));
    }
    for plugin in PLUGINS {
        let file = setup::cni_folder().join(plugin);
        add(&mut files, &file, format!("{PLUGINS_FOLDER}/{plugin}"));
    }
    let extensions = fs::read_dir(XTABLES).with_context(|| format!("list {XTABLES}"))?;
    for extension in extensions {
        let file = extension.with_context(|| format!("list {XTABLES}"))?.path();
        add(&mut files, &file, file.display().to_string());
    }
    Ok(files)
}

fn add(files: &mut BTreeSet<Copy>, file: &Path, inside: String) {
    files.extend(libraries_of(file));
    files.insert(Copy {
        inside,
        file: file.to_owned(),
    });
}

/// The libraries that a program needs, where a guest finds them.
pub(super) fn libraries_of(file: &Path) -> Vec<Copy> {
    // It fails on what is linked statically, and that needs nothing.
    let printed = process::probe(Command::new("ldd").arg(file)).unwrap_or_default();
    let libraries = libraries(&printed).map(|library| Copy {
        inside: library.to_owned(),
        file: PathBuf::from(library),
    });
    libraries.collect()
}

/// The paths in what `ldd` prints.
fn libraries(printed: &str) -> impl Iterator<Item = &str> {
    printed.lines().filter_map(|line| {
        let line = line.trim();
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let (path, _) = path.split_once(" (")?;
        path.starts_with('/').then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffe)\n\
            \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f06)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f06)\n";
        let found: Vec<&str> = libraries(printed).collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libmnl.so.0",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }
}
