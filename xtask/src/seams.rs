//! What only its own folder may name, so that what is added later need not look elsewhere.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::places;

/// Types of the vxlan backend.
const VXLAN: [&str; 4] = ["RemoteVtep", "Vni", "VxlanData", "VxlanConfig"];

/// Folders and files where they belong: the backends, the configuration, and the datapath with its
/// vocabulary and its side of the plan.
const ITS_OWN: [&str; 5] = [
    "core/src/backend",
    "core/src/config",
    "core/src/datapath",
    "core/src/vtep.rs",
    "datapath/src",
];

/// What else may: peers that must not contradict each other, rtnetlink's own attribute of a like
/// name, and tests.
const ALLOWED: [&str; 4] = [
    "core/src/peers.rs",
    "netlink/src/neigh.rs",
    "tests.rs",
    "/tests/",
];

/// Fails with every file of the agent that names a type of the vxlan backend.
pub(crate) fn check() -> Result<()> {
    let agent = places::root().join("agent");
    let mut complaints = Vec::new();
    visit(&agent, &agent, &mut complaints)?;
    ensure!(
        complaints.is_empty(),
        "only a backend, config and the datapath may name these; see docs/architecture.md:\n  {}",
        complaints.join("\n  ")
    );
    Ok(())
}

fn visit(agent: &Path, folder: &Path, complaints: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.strip_prefix(agent)?.to_string_lossy().into_owned();
        let own = ITS_OWN.iter().any(|own| name.starts_with(own));
        if own || ALLOWED.iter().any(|allowed| name.contains(allowed)) {
            continue;
        }
        if path.is_dir() {
            visit(agent, &path, complaints)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let product = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            complaints.extend(named(product).map(|word| format!("agent/{name} names {word}")));
        }
    }
    Ok(())
}

/// The types that a text names, as whole words.
fn named(text: &str) -> impl Iterator<Item = &'static str> {
    let words: Vec<&str> = text
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .collect();
    VXLAN.into_iter().filter(move |name| words.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_found() {
        let found = |text| named(text).collect::<Vec<_>>();
        assert_eq!(found("use crate::vtep::{MacAddr, Vni};"), ["Vni"]);
        assert!(found("Error::VniInUse { vni }, Backend::vxlan()").is_empty());
    }
}
