//! What the runtime does to a pod after us: the plugins that stand behind ours in the same list.
//!
//! A plugin is not told. Where the daemon runs that is no matter, for it sees what they do to the
//! pod's veth. Without it the plugin has to look itself, where runtimes keep their lists.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where runtimes look for configs, if nobody says otherwise.
const USUAL: &str = "/etc/cni/net.d";
/// How `cnitool` is told of another folder, and what it starts.
const VARIABLE: &str = "NETCONFPATH";
/// A config of more bytes than this is none.
const LONGEST: u64 = 4 << 20;
/// Plugins that leave the veth and its qdiscs alone: rules of netfilter, of which permits are
/// made, and settings inside the pod.
const HARMLESS: [&str; 3] = ["firewall", "portmap", "tuning"];

/// The folder of configs: the plugin's own config may name it.
pub(crate) fn folder(named: Option<&str>) -> PathBuf {
    let named = named.map(PathBuf::from);
    let told = || env::var_os(VARIABLE).filter(|path| !path.is_empty());
    named
        .or_else(|| told().map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(USUAL))
}

/// Whether every config of this network in the folder has nothing behind us but plugins that
/// leave the pod's veth alone. Where there is none, nobody knows.
pub(crate) fn is_harmless(folder: &Path, network: &str) -> io::Result<bool> {
    let mut found = false;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_config = ["conflist", "conf", "json"].map(|ending| Some(OsStr::new(ending)));
        if !is_config.contains(&path.extension()) || fs::metadata(&path)?.len() > LONGEST {
            continue;
        }
        // What is no JSON is no runtime's config either.
        let Ok(config) = serde_json::from_slice::<Value>(&fs::read(&path)?) else {
            continue;
        };
        if config["name"] != network {
            continue;
        }
        found = true;
        if !behind(&config).all(|kind| HARMLESS.contains(&kind)) {
            return Ok(false);
        }
    }
    Ok(found)
}

/// The types of the plugins behind ours; of one without a type, nothing.
fn behind(config: &Value) -> impl Iterator<Item = &str> {
    let plugins = config["plugins"].as_array().map_or(&[][..], Vec::as_slice);
    let mut types = plugins
        .iter()
        .map(|plugin| plugin["type"].as_str().unwrap_or_default());
    types.find(|kind| *kind == crate::commands::OURSELVES);
    types
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(files: &[(&str, Value)], expected: bool) {
        let folder = tempfile::tempdir().unwrap();
        for (name, config) in files {
            fs::write(folder.path().join(name), config.to_string()).unwrap();
        }
        assert_eq!(is_harmless(folder.path(), "cbr0").unwrap(), expected);
    }

    fn list(name: &str, types: &[&str]) -> Value {
        let plugins: Vec<Value> = types.iter().map(|kind| json!({"type": kind})).collect();
        json!({"name": name, "plugins": plugins})
    }

    #[test]
    fn what_leaves_the_veth_alone_is_known_by_name() {
        let stock = list("cbr0", &["flannel", "portmap"]);
        let limited = list("cbr0", &["flannel", "portmap", "bandwidth"]);
        let other = list("other", &["ptp", "bandwidth"]);
        check(&[("10-flannel.conflist", stock.clone())], true);
        check(&[("10-flannel.conflist", limited.clone())], false);
        check(
            &[("a.conflist", stock.clone()), ("b.conflist", other.clone())],
            true,
        );
        check(&[("a.conflist", stock), ("b.conflist", limited)], false);
        check(
            &[("a.conf", json!({"name": "cbr0", "type": "flannel"}))],
            true,
        );
        // What stands before us was there when the pod was judged.
        check(
            &[("a.json", list("cbr0", &["macvlan", "flannel", "tuning"]))],
            true,
        );
    }

    #[test]
    fn where_nothing_is_known_nothing_is_harmless() {
        check(&[], false);
        check(&[("b.conflist", list("other", &["flannel"]))], false);
        check(&[("a.conflist.bak", list("cbr0", &["flannel"]))], false);
        check(
            &[(
                "a.conflist",
                json!({"name": "cbr0", "plugins": [{"type": "flannel"}, 7]}),
            )],
            false,
        );
        let nowhere = Path::new("/nonexistent/net.d");
        assert!(is_harmless(nowhere, "cbr0").is_err());
    }
}
