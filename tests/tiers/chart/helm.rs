//! Helm, and objects as it renders them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

/// Flannel's releases whose charts are compared with.
pub(crate) const RELEASES: [&str; 5] = ["0.25.7", "0.26.7", "0.27.4", "0.28.4", "0.28.9"];

/// Objects by kind and name.
pub(crate) type Objects = BTreeMap<String, Value>;

/// Whether this tier was asked for: a plain `cargo test` has no Helm.
pub(crate) fn available() -> bool {
    twill_tests::required()
}

pub(crate) fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts")
}

pub(crate) fn ours() -> PathBuf {
    charts().join("twill")
}

/// The folder of a release of flannel.
pub(crate) fn flannels(release: &str) -> PathBuf {
    variable("TWILL_FLANNEL_CHARTS").join(release)
}

fn variable(name: &str) -> PathBuf {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value
        .unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test chart`"))
        .into()
}

/// What Helm says to these arguments, or what it complains about.
pub(crate) fn helm(arguments: &[&str], chart: &Path) -> Result<String, String> {
    // Without a cluster, and without anything of whoever runs this.
    let home = tempfile::tempdir().expect("a home for Helm");
    let output = Command::new(variable("TWILL_HELM"))
        .args(arguments)
        .arg("flannel")
        .arg(chart)
        .env_clear()
        .env("HOME", home.path())
        .output()
        .expect("start Helm");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("Helm prints UTF-8");
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// The objects of a chart with these values, written as for `--set-json`.
pub(crate) fn render(chart: &Path, values: &[&str]) -> Result<Objects, String> {
    let mut arguments = vec!["template", "--namespace=kube-flannel"];
    for value in values {
        arguments.extend(["--set-json", value]);
    }
    Ok(objects(&helm(&arguments, chart)?))
}

/// What a person is told after an installation with these values.
pub(crate) fn notes(chart: &Path, values: &[&str]) -> String {
    let mut arguments = vec!["install", "--dry-run=client", "--namespace=kube-flannel"];
    for value in values {
        arguments.extend(["--set-json", value]);
    }
    let text = helm(&arguments, chart).expect("install");
    let (_, notes) = text.split_once("NOTES:").expect("notes");
    // Lines are broken where they are long.
    notes.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads YAML of several documents.
pub(crate) fn objects(text: &str) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
    let mut objects = Objects::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        let word = |pointer| {
            let word = document.pointer(pointer).and_then(Value::as_str);
            word.expect("kind and name").to_owned()
        };
        let name = format!("{}/{}", word("/kind"), word("/metadata/name"));
        assert_eq!(objects.insert(name.clone(), document), None, "{name} twice");
    }
    objects
}

/// What is at a path, as `DaemonSet/kube-flannel-ds` and a JSON pointer.
pub(crate) fn at<'a>(objects: &'a Objects, object: &str, pointer: &str) -> &'a Value {
    let found = objects.get(object).and_then(|it| it.pointer(pointer));
    found.unwrap_or_else(|| panic!("no {pointer} in {object} of {:?}", objects.keys()))
}

/// The member of a list that has this name.
pub(crate) fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Map<String, Value>> {
    let mut members = list.as_array()?.iter().filter_map(Value::as_object);
    members.rfind(|it| it.get("name").and_then(Value::as_str) == Some(name))
}

/// The pod of the set.
pub(crate) fn pod(objects: &Objects) -> &Value {
    at(objects, "DaemonSet/kube-flannel-ds", "/spec/template/spec")
}

/// The daemon's container.
pub(crate) fn daemon(objects: &Objects) -> Value {
    let container = named(&pod(objects)["containers"], "kube-flannel");
    Value::Object(container.expect("the daemon").clone())
}

/// A copy of our chart with another `values.yaml`, as `helm upgrade --reuse-values` has it.
pub(crate) fn with_values_of(release: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&ours(), folder.path());
    fs::copy(
        flannels(release).join("chart/values.yaml"),
        folder.path().join("values.yaml"),
    )
    .expect("copy the values");
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a folder");
    for entry in fs::read_dir(from).expect("list the chart") {
        let entry = entry.expect("list the chart");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copy the chart");
        }
    }
}
