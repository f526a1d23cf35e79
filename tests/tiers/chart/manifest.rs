//! The plain manifest is the chart's, and can be applied over flannel's.

use std::fs;

use crate::difference::differences;
use crate::flannel::{ALWAYS, Meant, unmeant};
use crate::helm::{Objects, RELEASES, available, charts, flannels, helm, objects, ours};

fn manifest() -> Objects {
    let file = charts().join("kube-twill.yml");
    objects(&fs::read_to_string(file).expect("read the manifest"))
}

#[test]
fn the_manifest_is_the_chart() {
    if !available() {
        return;
    }
    let values = format!(
        "--values={}",
        charts().join("kube-twill.values.yaml").display()
    );
    let arguments = ["template", "--namespace=kube-flannel", &values];
    let rendered = objects(&helm(&arguments, &ours()).expect("our chart"));
    let found = differences(&rendered, &manifest());
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert!(
        found.is_empty(),
        "run `cargo xtask chart --bless`:\n{}",
        found.join("\n")
    );
}

/// In which flannel's manifest differs from its own chart.
const AS_THE_CHART: [Meant; 9] = [
    (
        r"\[kube-flannel\]\.command$",
        r#"^\["/opt/bin/flanneld"\]$"#,
        r#"^\["/opt/bin/flanneld","--ip-masq","--kube-subnet-mgr","--healthz-port=8081"\]$"#,
    ),
    (
        r"\[kube-flannel\]\.args$",
        r#"^\["--ip-masq","--kube-subnet-mgr""#,
        "nothing",
    ),
    (r"spec\.tolerations$", "NoSchedule", "NoExecute.*NoSchedule"),
    // Not set: as kube-proxy has it.
    (
        r"data\.net-conf\.json$",
        "EnableNFTables.*false",
        "10.244.0.0/16",
    ),
    // Of older releases.
    (
        r"data\.net-conf\.json$",
        r#"^"\{\\n  \\"Network\\": \\"10.244.0.0/16\\",\\n"#,
        "10.244.0.0/16",
    ),
    (
        r"\[install-cni\]\.command$",
        r#"^\["cp"\]$"#,
        "install-conf",
    ),
    (r"\[install-cni\]\.args$", r#"^\["-f""#, "cni-conf.json"),
    (
        r"\[kube-flannel\]\.(ports|livenessProbe|readinessProbe)$",
        "nothing",
        "healthz",
    ),
    (
        r"\[kube-flannel\]\.env\[CONT_WHEN_CACHE_NOT_READY\]$",
        "nothing",
        "false",
    ),
];

/// Names, labels, selectors, mounts and rights stay, so that `kubectl apply` changes what is
/// there instead of making a second network.
#[test]
fn the_manifest_goes_over_flannels() {
    if !available() {
        return;
    }
    let meant: Vec<_> = ALWAYS.into_iter().chain(AS_THE_CHART).collect();
    let twill = manifest();
    let mut complaints = Vec::new();
    for release in RELEASES {
        let file = flannels(release).join("kube-flannel.yml");
        let flannel = objects(&fs::read_to_string(file).expect("flannel's manifest"));
        let unmeant = unmeant(differences(&flannel, &twill), &meant);
        complaints.extend(unmeant.iter().map(|it| format!("{release}: {it}")));
        let selector = "/spec/selector";
        let of = |objects| crate::helm::at(objects, "DaemonSet/kube-flannel-ds", selector).clone();
        assert_eq!(of(&flannel), of(&twill), "{release}");
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
