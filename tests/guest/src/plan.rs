//! What the host wants done. Both sides compile this file: xtask writes the plan into the
//! initramfs, and the guest reads it there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the plan is.
pub(crate) const FILE: &str = "/twill/plan.json";

/// The plan.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// Modules to load, by name; what they depend on comes with them.
    pub(crate) modules: Vec<String>,
    /// The BPF object.
    pub(crate) object: PathBuf,
    /// Test binaries to run, in order.
    pub(crate) tiers: Vec<Tier>,
    /// The environment of the tiers.
    pub(crate) environment: BTreeMap<String, String>,
}

/// A test binary.
#[derive(Debug, Deserialize, Serialize)]
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
