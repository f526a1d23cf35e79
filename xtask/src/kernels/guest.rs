//! What runs inside: an initramfs for each kernel.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::binaries::{self, Binaries};
use super::cpio::Archive;
use super::extent::Extent;
use super::kernel::Kernel;
use super::pair;
use super::part::{Part, Role};
use super::plan::{self, Plan, Tier};
use super::programs::{self, BUSYBOX, Copy, PLUGINS_FOLDER, PROGRAMS};
use super::store::Stored;
use crate::places;

const OBJECT: &str = "/twill/twill.o";
const BINARIES: &str = "/twill/bin";

/// Modules that are loaded before anything is tried: what the kernel does not load by itself
/// when somebody asks for it.
const LOADED: [&str; 8] = [
    "veth",
    "vxlan",
    "bridge",
    "br_netfilter",
    "nf_conntrack",
    "nf_tables",
    "ip_vs",
    "sctp",
];

/// Modules of the wire between two guests, where a kernel has them as modules: not every one does.
const WIRE: [&str; 2] = ["virtio_pci", "virtio_net"];

/// Programs that busybox stands in for.
const APPLETS: [&str; 12] = [
    "sh", "modprobe", "cat", "ls", "mount", "umount", "sleep", "true", "false", "kill", "sysctl",
    "env",
];

/// What was built to run inside.
pub(super) struct Guest {
    extent: Extent,
    parts: Vec<&'static Part>,
    binaries: Binaries,
    programs: BTreeSet<Copy>,
}

/// Where cargo builds for guests, and where initramfs and consoles are kept.
pub(super) fn folder() -> PathBuf {
    places::root().join("target/guest")
}

/// Builds everything; cargo skips what is up to date.
pub(super) fn build(extent: Extent, parts: Vec<&'static Part>) -> Result<Guest> {
    let targets = parts.iter().map(|part| part.target).collect();
    let binaries = match extent {
        Extent::Whole => binaries::optimised(&targets)?,
        Extent::Brief => binaries::of_this_machine(&targets)?,
    };
    let mut programs = programs::all()?;
    programs.extend(binaries.libraries.iter().cloned());
    Ok(Guest {
        extent,
        parts,
        binaries,
        programs,
    })
}

impl Guest {
    /// Whether anything is to run in guests of this role.
    pub(super) fn has_work(&self, role: Role) -> bool {
        self.parts.iter().any(|part| part.is_for(role))
    }

    /// Writes the initramfs of a guest.
    pub(super) fn pack(&self, kernel: &Stored, role: Role, libtest: &[String]) -> Result<PathBuf> {
        let file = folder().join(format!("initramfs-{}.cpio", role.name(kernel.kernel)));
        let create = File::create(&file).with_context(|| format!("create {}", file.display()))?;
        let mut archive = Archive::new(BufWriter::new(create));
        archive.copy("/init", &self.binaries.init)?;
        for name in ["/bin", "/sbin", "/usr/sbin"] {
            archive.link(name, PROGRAMS)?;
        }
        for name in APPLETS {
            archive.link(&format!("{PROGRAMS}/{name}"), BUSYBOX)?;
        }
        archive.tree("/lib/modules", &kernel.modules.join("lib/modules"))?;
        for Copy { inside, file } in &self.programs {
            archive.copy(inside, file)?;
        }
        for program in &self.binaries.agent {
            archive.copy(&format!("{BINARIES}/{}", name_of(program)), program)?;
        }
        let targets: BTreeSet<&str> = self
            .parts_for(kernel.kernel, role)
            .map(|part| part.target)
            .collect();
        for target in targets {
            let file = self.binaries.tests.get(target);
            let file = file.with_context(|| format!("the tests {target} were not built"))?;
            archive.copy(&binary_of(target), file)?;
        }
        archive.copy(OBJECT, &places::bpf_object())?;
        let plan = serde_json::to_vec(&self.plan(kernel.kernel, role, libtest))
            .context("write the plan")?;
        archive.file(plan::FILE, &plan, 0o644)?;
        for folder in ["/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/var/lib"] {
            archive.directory(folder)?;
        }
        archive.finish()?;
        Ok(file)
    }

    fn parts_for(&self, kernel: &Kernel, role: Role) -> impl Iterator<Item = &'static Part> {
        let wanted = move |part: &&Part| part.is_for(role) && self.extent.has(part, kernel);
        self.parts.iter().copied().filter(wanted)
    }

    fn plan(&self, kernel: &Kernel, role: Role, libtest: &[String]) -> Plan {
        let tiers = self.parts_for(kernel, role).map(|part| Tier {
            name: part.name.to_owned(),
            binary: binary_of(part.target).into(),
            arguments: part.arguments(libtest),
            needs: part.needs.map(str::to_owned),
        });
        let variables = [
            ("TWILL_TIERS", "1"),
            ("REQUIRE_PRIVILEGED", "1"),
            ("TWILL_BIN_DIR", BINARIES),
            ("TWILL_BPF_OBJECT", OBJECT),
            ("TWILL_CNI_PATH", PLUGINS_FOLDER),
            // On one of four kernels, each a hundredth as fast as the machine.
            ("PROPTEST_CASES", "100"),
            ("TWILL_PATIENCE", "12"),
        ];
        let side = role.side().map(|side| (pair::SIDE, side));
        let wire: &[&str] = if side.is_some() { &WIRE } else { &[] };
        Plan {
            modules: LOADED
                .iter()
                .chain(wire)
                .map(|&name| name.to_owned())
                .collect(),
            object: OBJECT.into(),
            tiers: tiers.collect(),
            environment: variables
                .into_iter()
                .chain(side)
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }
    }
}

fn binary_of(target: &str) -> String {
    format!("/twill/tests/{target}")
}

fn name_of(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
