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

/// With the rights that `kubernetes::podcidr` works with, and no more.
#[test]
fn the_podcidr_controller_is_there_on_request() {
    if !available() {
        return;
    }
    assert!(!rendered(&[]).keys().any(|name| name.contains("podcidr")));
    let objects = rendered(&[
        "twill.podcidrController.enabled=true",
        r#"podCidrv6="fd00::/48""#,
        r#"twill.podcidrController.removeTaints=["a","b:NoSchedule"]"#,
        r#"twill.podcidrController.allocateNodeSelector=[{"key":"k","operator":"Exists"}]"#,
    ]);
    let pod = "/spec/template/spec";
    let pod = at(&objects, "Deployment/twill-podcidr", pod);
    let command = pod["containers"][0]["command"].as_array().expect("words");
    for word in [
        "--cluster-cidr=10.244.0.0/16,fd00::/48",
        "--remove-taints=a,b:NoSchedule",
        r#"--node-selector=[{"key":"k","operator":"Exists"}]"#,
        "--leader-elect=true",
    ] {
        assert!(command.contains(&json!(word)), "{word} in {command:?}");
    }
    let program = std::env::var("TWILL_BIN_DIR").expect("TWILL_BIN_DIR") + "/twilld";
    let mut words = command.iter().map(|it| it.as_str().expect("a word"));
    assert_eq!(words.next(), Some("twilld"));
    // Its flags are read, and then there is no pod.
    let output = std::process::Command::new(program)
        .args(words)
        .env_clear()
        .output()
        .expect("twilld");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no service account of a pod"), "{said}");
    let rights = |name: &str| {
        let rights = crate::difference::rights(&objects[name]);
        rights.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        rights("ClusterRole/twill-podcidr"),
        "/nodes:get /nodes:list /nodes:patch /nodes:watch"
    );
    let leases = "coordination.k8s.io/leases";
    assert_eq!(
        rights("Role/twill-podcidr"),
        format!("{leases}:create {leases}:get {leases}:update")
    );
}

/// The same set, so that on each node the daemon ends first.
#[test]
fn a_handover_takes_the_daemons_place() {
    if !available() {
        return;
    }
    let handover = daemon(&rendered(&[
        "twill.handover=true",
        r#"twill.guard="count""#,
    ]));
    let before = daemon(&rendered(&[]));
    let word = handover["command"][2].as_str().expect("a command");
    assert!(word.starts_with("twillctl handover && "), "{word}");
    for absent in ["livenessProbe", "readinessProbe", "ports"] {
        assert!(handover.get(absent).is_none(), "{absent}");
    }
    for same in ["securityContext", "volumeMounts", "name", "image"] {
        assert_eq!(handover[same], before[same], "{same}");
    }
}
