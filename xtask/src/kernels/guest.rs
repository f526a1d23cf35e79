//! What runs inside: static binaries, and an initramfs for each kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::cpio::Archive;
use super::programs::{self, BUSYBOX, Copy, PLUGINS_FOLDER, PROGRAMS};
use super::store::Stored;
use crate::build::Artifacts;
use crate::{console, places, process};

/// The host's own target: naming it keeps flags away from build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const OBJECT: &str = "/twill/twill.o";
const BINARIES: &str = "/twill/bin";

/// Modules that are loaded before anything is tried: what the kernel does not load by itself
/// when somebody asks for it.
const LOADED: [&str; 9] = [
    "veth",
    "vxlan",
    "bridge",
    "br_netfilter",
    "nf_conntrack",
    "nf_tables",
    "virtio_net",
    "ip_vs",
    "sctp",
];

/// Programs that busybox stands in for.
const APPLETS: [&str; 12] = [
    "sh", "modprobe", "cat", "ls", "mount", "umount", "sleep", "true", "false", "kill", "sysctl",
    "env",
];

/// The verifier and two agents are enough for an emulated processor.
const ONE_AT_A_TIME: &str = "--test-threads=1";

/// The tiers that run inside, and what their binaries get as arguments.
const TIERS: [Tier; 4] = [
    Tier {
        name: "prog_run",
        target: "prog_run",
        arguments: &[
            // The guest's first process takes the verifier's figures itself, for each kernel.
            "--skip",
            "verifier::",
            // They reach back further than a guest has been up.
            "--skip",
            "direct_in::a_syn_to_a_pod_in_its_place",
            "--skip",
            "direct_in::without_a_place",
        ],
        // Without it the agent attaches nothing.
        needs: Some("encap by BPF"),
        long: false,
    },
    Tier {
        name: "agent",
        target: "kernels",
        arguments: &["any::", ONE_AT_A_TIME],
        needs: None,
        long: true,
    },
    Tier {
        name: "permits",
        target: "kernels",
        arguments: &["fast::", ONE_AT_A_TIME],
        needs: Some("encap by BPF"),
        long: true,
    },
    Tier {
        name: "netns",
        target: "netns",
        // It measures, and an emulated processor is no measure.
        arguments: &["--skip", "netlink::scale"],
        needs: None,
        long: true,
    },
];

/// Tests of a target of `tests/tiers`.
struct Tier {
    /// Its name in the table.
    name: &'static str,
    target: &'static str,
    arguments: &'static [&'static str],
    /// A feature without which it proves nothing.
    needs: Option<&'static str>,
    /// Whether it runs only when everything is asked for.
    long: bool,
}

/// What was built to run inside.
pub(super) struct Guest {
    init: PathBuf,
    /// Programs of ours for [`BINARIES`].
    binaries: Vec<PathBuf>,
    tiers: Vec<(&'static Tier, PathBuf)>,
    programs: BTreeSet<Copy>,
}

/// `tests/guest/src/plan.rs` reads it.
#[derive(Serialize)]
struct Plan {
    modules: &'static [&'static str],
    object: &'static str,
    tiers: Vec<PlannedTier>,
    environment: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct PlannedTier {
    name: &'static str,
    binary: String,
    arguments: Vec<String>,
    needs: Option<&'static str>,
}

/// Where cargo builds for guests, and where initramfs and consoles are kept.
pub(super) fn folder() -> PathBuf {
    places::root().join("target/guest")
}

/// Builds everything; cargo skips what is up to date.
pub(super) fn build(all: bool) -> Result<Guest> {
    let tiers = TIERS.iter().filter(|tier| all || !tier.long);
    console::step("build what runs in the guests (the first time up to 5 min)");
    let mut command = process::cargo();
    command
        .args(["build", "--target", TARGET, "--bins"])
        .args(["--package", "twill-tests", "--package", "twill-guest"])
        .args(["--package", "twill-agent"])
        .args(tiers.clone().flat_map(|tier| ["--test", tier.target]))
        .env("CARGO_TARGET_DIR", folder())
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Emulated processors are slow: this pays for itself in the first run.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("CARGO_PROFILE_DEV_STRIP", "symbols");
    let built = Artifacts::build(&mut command)?;
    let tiers = tiers
        .map(|tier| Ok((tier, built.test(tier.target)?)))
        .collect::<Result<_>>()?;
    Ok(Guest {
        init: built.binary("twill-guest")?,
        binaries: vec![built.binary("twilld")?, built.binary("twillctl")?],
        tiers,
        programs: programs::all()?,
    })
}

impl Guest {
    /// Writes the initramfs for a kernel.
    pub(super) fn pack(&self, kernel: &Stored, libtest: &[String]) -> Result<PathBuf> {
        let file = folder().join(format!("initramfs-{}.cpio", kernel.kernel.series));
        let create = File::create(&file).with_context(|| format!("create {}", file.display()))?;
        let mut archive = Archive::new(BufWriter::new(create));
        archive.copy("/init", &self.init)?;
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
        for binary in &self.binaries {
            archive.copy(&format!("{BINARIES}/{}", name_of(binary)), binary)?;
        }
        let targets = self.tiers.iter().map(|(tier, file)| (tier.target, file));
        for (target, file) in targets.collect::<BTreeMap<_, _>>() {
            archive.copy(&tier_path(target), file)?;
        }
        archive.copy(OBJECT, &places::bpf_object())?;
        let plan = serde_json::to_vec(&self.plan(libtest)).context("write the plan")?;
        archive.file("/twill/plan.json", &plan, 0o644)?;
        for folder in ["/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/var/lib"] {
            archive.directory(folder)?;
        }
        archive.finish()?;
        Ok(file)
    }

    fn plan(&self, libtest: &[String]) -> Plan {
        let tiers = self.tiers.iter().map(|(tier, _)| PlannedTier {
            name: tier.name,
            binary: tier_path(tier.target),
            arguments: tier
                .arguments
                .iter()
                .map(|&word| word.to_owned())
                .chain(libtest.iter().cloned())
                .collect(),
            needs: tier.needs,
        });
        let variables = [
            ("TWILL_TIERS", "1"),
            ("REQUIRE_PRIVILEGED", "1"),
            ("TWILL_BIN_DIR", BINARIES),
            ("TWILL_BPF_OBJECT", OBJECT),
            ("TWILL_CNI_PATH", PLUGINS_FOLDER),
            // On one of four kernels, each a hundredth as fast as the machine.
            ("PROPTEST_CASES", "100"),
            ("TWILL_PATIENCE", "8"),
        ];
        Plan {
            modules: &LOADED,
            object: OBJECT,
            tiers: tiers.collect(),
            environment: variables
                .map(|(name, value)| (name, value.to_owned()))
                .into(),
        }
    }
}

fn tier_path(name: &str) -> String {
    format!("/twill/tests/{name}")
}

fn name_of(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
