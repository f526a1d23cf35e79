//! What `twill.*` renders.

use serde_json::{Value, json};

use crate::helm::{at, available, daemon, named, ours, pod, render};

fn rendered(values: &[&str]) -> crate::helm::Objects {
    render(&ours(), values).unwrap_or_else(|why| panic!("{values:?}: {why}"))
}

fn init_container(objects: &crate::helm::Objects, name: &str) -> Option<Value> {
    let found = named(&pod(objects)["initContainers"], name);
    found.cloned().map(Value::Object)
}

#[test]
fn each_profile_has_its_rights() {
    if !available() {
        return;
    }
    for (profile, privileged, capabilities, propagation, mounts) in [
        (
            "bpf",
            false,
            json!(["BPF", "PERFMON", "SYS_ADMIN", "NET_ADMIN", "NET_RAW"]),
            Some("HostToContainer"),
            true,
        ),
        (
            "privileged",
            true,
            json!(["NET_ADMIN", "NET_RAW"]),
            Some("Bidirectional"),
            false,
        ),
        ("none", false, json!(["NET_ADMIN", "NET_RAW"]), None, false),
    ] {
        let objects = rendered(&[&format!("twill.capabilities={}", json!(profile))]);
        let daemon = daemon(&objects);
        assert_eq!(
            daemon["securityContext"]["privileged"], privileged,
            "{profile}"
        );
        assert_eq!(
            daemon["securityContext"]["capabilities"]["add"], capabilities,
            "{profile}"
        );
        let mount = named(&daemon["volumeMounts"], "bpffs");
        let found = mount.map(|it| it["mountPropagation"].as_str().expect("a word"));
        assert_eq!(found, propagation, "{profile}");
        assert_eq!(
            init_container(&objects, "mount-bpffs").is_some(),
            mounts,
            "{profile}"
        );
    }
}

/// Only a privileged container may mount on the host: the API server refuses others.
#[test]
fn whoever_mounts_on_the_host_is_privileged() {
    if !available() {
        return;
    }
    for profile in ["bpf", "privileged", "none"] {
        let objects = rendered(&[&format!("twill.capabilities={}", json!(profile))]);
        let pod = pod(&objects);
        for list in ["containers", "initContainers"] {
            for container in pod[list].as_array().expect("containers") {
                let mounts = container["volumeMounts"].to_string();
                if mounts.contains("Bidirectional") {
                    assert_eq!(
                        container["securityContext"]["privileged"], true,
                        "{container}"
                    );
                }
            }
        }
    }
    let objects = rendered(&[
        "twill.bpffs.mount=false",
        r#"twill.capabilities="privileged""#,
    ]);
    assert!(!pod(&objects).to_string().contains("Bidirectional"));
}

#[test]
fn standard_plugins_are_installed_on_request() {
    if !available() {
        return;
    }
    assert_eq!(
        init_container(&rendered(&[]), "install-standard-cni-plugins"),
        None
    );
    let objects = rendered(&[
        "twill.cniPlugins.install=true",
        r#"twill.cniPlugins.names=["bridge","loopback"]"#,
    ]);
    let container = init_container(&objects, "install-standard-cni-plugins").expect("it");
    assert_eq!(
        container["args"],
        json!([
            "-f",
            "/usr/lib/cni/bridge",
            "/usr/lib/cni/loopback",
            "/opt/cni/bin/"
        ])
    );
    let folder = named(&pod(&objects)["volumes"], "cni-plugin").expect("the volume");
    assert_eq!(folder["hostPath"]["type"], "DirectoryOrCreate");
}

#[test]
fn the_pod_can_be_added_to() {
    if !available() {
        return;
    }
    let objects = rendered(&[
        r#"twill.updateStrategy={"rollingUpdate":{"maxUnavailable":"10%"}}"#,
        r#"twill.podAnnotations={"a":"b"}"#,
        r#"twill.podLabels={"c":"d","app":"x"}"#,
        r#"twill.priorityClassName="p""#,
        r#"twill.imagePullPolicy="Never""#,
        r#"twill.extraEnv=[{"name":"E","value":"v"}]"#,
        r#"twill.extraVolumes=[{"name":"v","emptyDir":{}}]"#,
        r#"twill.extraVolumeMounts=[{"name":"v","mountPath":"/v"}]"#,
        r#"twill.commonLabels={"l":"m"}"#,
        "twill.namespace.create=true",
        "flannel.learning=true",
    ]);
    let set = "DaemonSet/kube-flannel-ds";
    assert_eq!(
        at(
            &objects,
            set,
            "/spec/updateStrategy/rollingUpdate/maxUnavailable"
        ),
        "10%"
    );
    assert_eq!(
        at(&objects, set, "/spec/template/metadata/annotations/a"),
        "b"
    );
    // The selector's label is nobody else's.
    assert_eq!(
        at(&objects, set, "/spec/template/metadata/labels"),
        &json!({"app": "flannel", "tier": "node", "c": "d"})
    );
    assert_eq!(pod(&objects)["priorityClassName"], "p");
    assert_eq!(daemon(&objects)["imagePullPolicy"], "Never");
    assert_eq!(
        named(&daemon(&objects)["env"], "E").expect("E")["value"],
        "v"
    );
    assert!(named(&pod(&objects)["volumes"], "v").is_some());
    assert!(named(&daemon(&objects)["volumeMounts"], "v").is_some());
    for (name, object) in &objects {
        assert_eq!(object["metadata"]["labels"]["l"], "m", "{name}");
    }
    let enforced = &objects["Namespace/kube-flannel"]["metadata"]["labels"];
    assert_eq!(enforced["pod-security.kubernetes.io/enforce"], "privileged");
    let conf = at(
        &objects,
        "ConfigMap/kube-flannel-cfg",
        "/data/net-conf.json",
    );
    let conf: Value = serde_json::from_str(conf.as_str().expect("text")).expect("JSON");
    assert_eq!(conf["Backend"]["Learning"], true);
}
