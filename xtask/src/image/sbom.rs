//! What is in the image, as an SPDX 2.3 document: Debian's packages, and the crates that Twill's
//! programs are built from.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::archive::rfc3339;
use super::packages::Packages;
use super::rootfs::Rootfs;
use crate::process;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The packages of the workspace whose programs are in the image.
const OURS: [&str; 3] = ["twill-agent", "twill-cni", "twill-ctl"];

/// The document.
pub(super) fn document(rootfs: &Rootfs, packages: &Packages, time: u64) -> Result<Vec<u8>> {
    let mut listed = vec![json!({
        "SPDXID": "SPDXRef-twill",
        "name": "twill",
        "versionInfo": VERSION,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseDeclared": "Apache-2.0",
    })];
    let used = packages
        .iter()
        .filter(|(name, _)| rootfs.used.contains(*name));
    listed.extend(used.map(|(name, package)| {
        let version = &package.version;
        let architecture = &package.architecture;
        let encoded = version.replace('+', "%2B").replace(':', "%3A");
        json!({
            "SPDXID": format!("SPDXRef-deb-{}", identifier(name)),
            "name": name,
            "versionInfo": version,
            "sourceInfo": format!("built from {}", package.source),
            "supplier": "Organization: Debian",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseDeclared": "NOASSERTION",
            "comment": format!("its licence is in /usr/share/doc/{name}/copyright"),
            "externalRefs": [reference(&format!(
                "pkg:deb/debian/{name}@{encoded}?arch={architecture}"
            ))],
        })
    }));
    listed.extend(crates()?.into_iter().map(|it| {
        json!({
            "SPDXID": format!("SPDXRef-crate-{}-{}", identifier(&it.name), identifier(&it.version)),
            "name": it.name,
            "versionInfo": it.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseDeclared": it.license.as_deref().unwrap_or("NOASSERTION").replace('/', " OR "),
            "externalRefs": [reference(&format!("pkg:cargo/{}@{}", it.name, it.version))],
        })
    }));
    let relations: Vec<_> = listed
        .iter()
        .enumerate()
        .map(|(place, it)| match place {
            0 => ("SPDXRef-DOCUMENT", "DESCRIBES", &it["SPDXID"]),
            _ => ("SPDXRef-twill", "CONTAINS", &it["SPDXID"]),
        })
        .map(|(from, how, to)| {
            json!({
                "spdxElementId": from,
                "relationshipType": how,
                "relatedSpdxElement": to,
            })
        })
        .collect();
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("twill-{VERSION}"),
        "documentNamespace": format!("https://twill.invalid/spdx/{VERSION}/{time}"),
        "creationInfo": { "created": rfc3339(time), "creators": ["Tool: cargo xtask image"] },
        "packages": listed,
        "relationships": relations,
    });
    serde_json::to_vec_pretty(&document).context("write the list of what is in the image")
}

fn reference(purl: &str) -> Value {
    json!({
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": purl,
    })
}

/// What SPDX allows in an identifier.
fn identifier(text: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '.';
    text.replace(|c| !good(c), "-")
}

/// A crate, as `cargo metadata` tells of it.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
struct Crate {
    name: String,
    version: String,
    license: Option<String>,
    id: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// The crates that are compiled into our programs, ours left out.
fn crates() -> Result<BTreeSet<Crate>> {
    let mut command = process::cargo();
    command.args(["metadata", "--format-version=1", "--locked"]);
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.args(["--filter-platform", &platform]);
    let text = process::stdout(&mut command)?;
    let metadata = serde_json::from_str(&text).context("read what cargo says of the crates")?;
    Ok(compiled(metadata))
}

fn compiled(metadata: Metadata) -> BTreeSet<Crate> {
    let nodes: BTreeMap<_, _> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), &node.deps))
        .collect();
    let ours = metadata
        .packages
        .iter()
        .filter(|it| OURS.contains(&it.name.as_str()));
    let mut open: Vec<&str> = ours.map(|it| it.id.as_str()).collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = open.pop() {
        if reached.insert(id.to_owned()) {
            let dependencies = nodes.get(id).into_iter().flat_map(|it| it.iter());
            let compiled =
                dependencies.filter(|it| it.dep_kinds.iter().any(|it| it.kind.is_none()));
            open.extend(compiled.map(|it| it.pkg.as_str()));
        }
    }
    let packages = metadata.packages.into_iter();
    packages
        .filter(|it| reached.contains(&it.id) && !it.name.starts_with("twill-"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_builds_or_tests_is_left_out() {
        let text = r#"{
            "packages": [
                {"name": "twill-agent", "version": "0.1.0", "license": null, "id": "a"},
                {"name": "used", "version": "1.0.0", "license": "MIT", "id": "b"},
                {"name": "builds", "version": "1.0.0", "license": "MIT", "id": "c"},
                {"name": "tests", "version": "1.0.0", "license": "MIT", "id": "d"}
            ],
            "resolve": {"nodes": [
                {"id": "a", "deps": [
                    {"pkg": "b", "dep_kinds": [{"kind": null}]},
                    {"pkg": "c", "dep_kinds": [{"kind": "build"}]},
                    {"pkg": "d", "dep_kinds": [{"kind": "dev"}]}
                ]},
                {"id": "b", "deps": []}
            ]}
        }"#;
        let crates = compiled(serde_json::from_str(text).unwrap());
        let names: Vec<_> = crates.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["used"]);
    }

    #[test]
    fn identifiers_have_no_other_characters() {
        assert_eq!(identifier("libc6"), "libc6");
        assert_eq!(identifier("a_b+1.0"), "a-b-1.0");
    }
}
