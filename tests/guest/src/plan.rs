//! What the host wants done, as it wrote it into the initramfs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// Where the plan is.
const FILE: &str = "/twill/plan.json";

/// The plan.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// Modules to load, by name; what they depend on comes with them.
    pub(crate) modules: Vec<String>,
    /// The BPF object.
    object: PathBuf,
    /// Test binaries to run, in order.
    pub(crate) tiers: Vec<Tier>,
    /// The environment of the tiers.
    pub(crate) environment: BTreeMap<String, String>,
}

/// A test binary.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tier {
    /// Its name in the report.
    pub(crate) name: String,
    /// The file.
    pub(crate) binary: PathBuf,
    /// Arguments for libtest.
    pub(crate) arguments: Vec<String>,
    /// A feature without which it proves nothing.
    pub(crate) needs: Option<String>,
}

impl Plan {
    /// Reads the plan.
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read(FILE).with_context(|| format!("read {FILE}"))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {FILE}"))
    }

    /// The bytes of the BPF object.
    pub(crate) fn object(&self) -> Result<Vec<u8>> {
        fs::read(&self.object).with_context(|| format!("read {}", self.object.display()))
    }
}
