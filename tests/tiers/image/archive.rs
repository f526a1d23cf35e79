//! The archive: what runtimes and people look for in it.

use anyhow::Result;
use serde_json::Value;

use crate::container::{archive, available, member};

/// A node pulls it over whatever line it has.
const MOST: u64 = 60_000_000;

#[test]
fn it_is_small() -> Result<()> {
    if available() {
        let size = std::fs::metadata(archive())?.len();
        assert!(size < MOST, "{size} bytes");
    }
    Ok(())
}

#[test]
fn it_is_an_oci_image_that_docker_reads_too() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let json = |name: &str| -> Result<Value> { Ok(serde_json::from_slice(&member(name)?)?) };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        format!("blobs/{}", digest.replace(':', "/"))
    };
    assert_eq!(json("oci-layout")?["imageLayoutVersion"], "1.0.0");
    let entry = &json("index.json")?["manifests"][0];
    let name = &entry["annotations"]["io.containerd.image.name"];
    let manifest = json(&blob(entry))?;
    let config = json(&blob(&manifest["config"]))?;
    let docker = json("manifest.json")?;
    assert_eq!(docker[0]["RepoTags"][0], *name);
    assert_eq!(docker[0]["Config"], blob(&manifest["config"]));
    assert_eq!(docker[0]["Layers"][0], blob(&manifest["layers"][0]));
    let labels = &config["config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.title"], "Twill");
    assert!(
        labels["org.opencontainers.image.revision"]
            .as_str()
            .is_some_and(|it| it.len() == 40)
    );
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/opt/bin/entrypoint"])
    );
    Ok(())
}

#[test]
fn what_is_in_it_is_listed() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let container = crate::container::Container::new("bill", &[])?;
    let text = std::fs::read(container.path("/usr/share/sbom/twill.spdx.json"))?;
    let bill: Value = serde_json::from_slice(&text)?;
    let packages = bill["packages"].as_array().expect("packages");
    for name in [
        "twill",
        "iptables",
        "nftables",
        "libc6",
        "busybox-static",
        "aya",
        "tokio",
    ] {
        let found = packages.iter().find(|it| it["name"] == name);
        let found = found.unwrap_or_else(|| panic!("{name} is not listed"));
        assert!(
            found["versionInfo"]
                .as_str()
                .is_some_and(|it| !it.is_empty()),
            "{found}"
        );
        if found["supplier"] == "Organization: Debian" {
            let file = container.path(&format!("/usr/share/doc/{name}/copyright"));
            assert!(file.is_file(), "{name} has no copyright");
        }
    }
    Ok(())
}
