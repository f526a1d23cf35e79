//! The chart and the manifest over flannel's, at a real API server, and back.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use twill_testbed::kubernetes::{ControlPlane, User};
use twill_testbed::topology::Underlay;

const NAMESPACE: &str = "kube-system";
const SET: &str = "kube-flannel-ds";

struct Helm<'a> {
    control: &'a ControlPlane,
    program: PathBuf,
    flannel: PathBuf,
}

impl Helm<'_> {
    fn run(&self, words: &[&str]) -> Result<String> {
        let kubeconfig = self.control.kubeconfig(User::Admin)?;
        let home = self.control.host().directory().join("helm");
        let variables = [
            format!("KUBECONFIG={}", kubeconfig.display()),
            format!("HOME={}", home.display()),
        ];
        let program = self.program.display().to_string();
        let mut command: Vec<&str> = vec!["env"];
        command.extend(variables.iter().map(String::as_str));
        command.extend([program.as_str(), "--namespace", NAMESPACE]);
        command.extend(words);
        self.control.host().namespace().run(&command)
    }

    /// Installs or upgrades the release `flannel`.
    fn put(&self, chart: &Path, words: &[&str]) -> Result<String> {
        let chart = chart.display().to_string();
        self.run(&[&["upgrade", "--install", "flannel", &chart], words].concat())
    }

    fn set(&self, namespace: &str) -> Result<Value> {
        self.control.get(&["daemonset", "-n", namespace, SET])
    }
}

fn variable(name: &str) -> Result<PathBuf> {
    let value = std::env::var_os(name);
    value
        .map(PathBuf::from)
        .with_context(|| format!("{name} is not set"))
}

fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts")
}

fn image(set: &Value) -> &str {
    let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
    image.as_str().unwrap_or_default()
}

fn same(before: &Value, now: &Value) -> Result<()> {
    let uid = |set: &Value| set["metadata"]["uid"].clone();
    ensure!(uid(before) == uid(now), "another DaemonSet: {now}");
    Ok(())
}

/// The set that is there is changed, and never a second one made.
#[test]
fn it_goes_over_flannels_release_and_manifest_and_back() -> Result<()> {
    if !twill_tests::required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let control = ControlPlane::start(&underlay)?;
    // What the testbed grants flannel is none of the release's.
    for kind in ["clusterrole", "clusterrolebinding"] {
        control.kubectl(&["delete", kind, "flannel"])?;
    }
    let helm = Helm {
        control: &control,
        program: variable("TWILL_HELM")?,
        flannel: variable("TWILL_FLANNEL_CHARTS")?,
    };
    let ours = charts().join("twill");
    for release in ["0.25.7", "0.28.9"] {
        let theirs = helm.flannel.join(release).join("chart");
        helm.put(
            &theirs,
            &["--set=podCidr=10.244.0.0/16", "--set=flannel.vni=7"],
        )?;
        let before = helm.set(NAMESPACE)?;
        ensure!(
            image(&before).ends_with(&format!("/flannel:v{release}")),
            "{before}"
        );

        helm.put(&ours, &["--reset-then-reuse-values"])?;
        let now = helm.set(NAMESPACE)?;
        same(&before, &now)?;
        ensure!(image(&now).starts_with("localhost/twill:"), "{now}");
        // What the person has set stays.
        let config = control.get(&["configmap", "-n", NAMESPACE, "kube-flannel-cfg"])?;
        let conf = config["data"]["net-conf.json"].as_str().unwrap_or_default();
        ensure!(conf.contains("\"VNI\": 7"), "{conf}");

        for profile in ["privileged", "none"] {
            let profile = format!("--set=twill.capabilities={profile}");
            helm.put(&ours, &["--reuse-values", &profile])?;
        }
        let everything = [
            "--reuse-values",
            "--set=twill.capabilities=bpf,twill.cniPlugins.install=true,netpol.enabled=true",
            "--set=twill.metrics.dashboard.enabled=true,twill.podcidrController.enabled=true",
        ];
        helm.put(&ours, &everything)?;
        helm.put(&ours, &["--reuse-values", "--set=twill.handover=true"])?;
        same(&before, &helm.set(NAMESPACE)?)?;

        helm.run(&["rollback", "flannel", "1"])?;
        let back = helm.set(NAMESPACE)?;
        same(&before, &back)?;
        let spec = |set: &Value| set["spec"]["template"]["spec"].clone();
        ensure!(spec(&back) == spec(&before), "{back}");
        helm.run(&["uninstall", "flannel"])?;
    }

    let manifest = |file: &Path| {
        let file = file.display().to_string();
        control.kubectl(&["apply", "-f", &file])
    };
    let theirs = helm.flannel.join("0.28.9/kube-flannel.yml");
    manifest(&theirs)?;
    let before = helm.set("kube-flannel")?;
    manifest(&charts().join("kube-twill.yml"))?;
    let now = helm.set("kube-flannel")?;
    same(&before, &now)?;
    ensure!(image(&now).starts_with("localhost/twill:"), "{now}");
    let container = &now["spec"]["template"]["spec"]["containers"][0];
    ensure!(
        container["args"].is_null(),
        "flannel's arguments are left: {container}"
    );
    let handover = r#"{"spec":{"template":{"spec":{"containers":[
        {"name":"kube-flannel","command":["/bin/sh","-c","twillctl handover && exec sleep 2147483647"],
         "livenessProbe":null,"readinessProbe":null}]}}}}"#;
    control.kubectl(&[
        "-n",
        "kube-flannel",
        "patch",
        "daemonset",
        SET,
        "--patch",
        handover,
    ])?;
    manifest(&theirs)?;
    let back = helm.set("kube-flannel")?;
    same(&before, &back)?;
    let spec = |set: &Value| set["spec"]["template"]["spec"].clone();
    ensure!(
        spec(&back) == spec(&before),
        "left by Twill: {}",
        spec(&back)
    );
    Ok(())
}
