//! `twilld podcidr` in place of the controller manager's own, with the rights that the chart gives
//! it.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::daemon::{Daemon, binary};
use twill_testbed::kubernetes::{ControlPlane, Options, User};
use twill_testbed::topology::Underlay;
use twill_testbed::wait::{wait_for, wait_until};

const PATIENCE: Duration = Duration::from_secs(40);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);

/// As `charts/twill/templates/podcidr.yaml` has them, for the service account that there is.
const RIGHTS: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: podcidr }
rules:
  - { apiGroups: [''], resources: [nodes], verbs: [get, list, watch, patch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: podcidr }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: podcidr }
subjects: [ { kind: ServiceAccount, name: flannel, namespace: kube-flannel } ]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: podcidr, namespace: kube-flannel }
rules:
  - { apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: podcidr, namespace: kube-flannel }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: podcidr }
subjects: [ { kind: ServiceAccount, name: flannel, namespace: kube-flannel } ]
";

fn controller(control: &ControlPlane, name: &str) -> Result<Daemon> {
    let mut command = Command::new(binary("twilld")?);
    command
        .args(["podcidr", "--cluster-cidr=10.244.0.0/22,fd00:10:244::/48"])
        .args(["--remove-taints=example.com/no-network,example.com/later:NoExecute"])
        .args([
            "--leader-elect-lease-duration=6s",
            "--leader-elect-renew-deadline=4s",
        ])
        .args(["--leader-elect-retry-period=1s"])
        .args(["--leader-elect-resource-namespace=kube-flannel"])
        .arg("--kubeconfig-file")
        .arg(control.kubeconfig(User::FlannelToken)?);
    let log = control.host().directory().join(name);
    Daemon::start(control.host().namespace(), command, &log)
}

/// Waits for the prefixes of a Node.
fn given(control: &ControlPlane, name: &str) -> Result<Vec<String>> {
    wait_for(&format!("{name} has a podCIDR"), PATIENCE, || {
        let node = control.get(&["node", name])?;
        let cidrs = node["spec"]["podCIDRs"].clone();
        Ok(serde_json::from_value(cidrs).ok())
    })
}

fn expect(control: &ControlPlane, name: &str, cidrs: [&str; 2]) -> Result<()> {
    let found = given(control, name)?;
    ensure!(found == cidrs, "{name} has {found:?} instead of {cidrs:?}");
    Ok(())
}

#[test]
fn nodes_get_prefixes_of_both_families_and_one_controller_works() -> Result<()> {
    if !twill_tests::required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let options = Options {
        cluster_cidr: None,
        ..Options::default()
    };
    let control = ControlPlane::start_with(&underlay, options)?;
    control.apply(RIGHTS)?;
    control.add_node("early", NODE, Some("10.244.1.0/24"))?;
    let leader = controller(&control, "first.log")?;
    control.add_node("n1", NODE, None)?;
    // Behind what is held already.
    expect(&control, "n1", ["10.244.2.0/24", "fd00:10:244::/64"])?;
    let mut other = controller(&control, "second.log")?;
    let log = control.host().directory().join("second.log");
    wait_until("the second one waits", PATIENCE, || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("another controller"))
    })?;

    // One that comes with a prefix keeps it for itself.
    control.add_node("late", NODE, Some("10.244.3.0/24"))?;
    control.add_node("n2", NODE, None)?;
    expect(&control, "n2", ["10.244.0.0/24", "fd00:10:244:1::/64"])?;

    // None is left, until a Node goes.
    control.add_node("n3", NODE, None)?;
    control.kubectl(&["taint", "node", "n2", "example.com/no-network=x:NoSchedule"])?;
    control.kubectl(&["taint", "node", "n2", "example.com/later=x:NoSchedule"])?;
    let taints =
        || -> Result<String> { Ok(control.get(&["node", "n2"])?["spec"]["taints"].to_string()) };
    wait_until("the taint is gone", PATIENCE, || {
        taints().is_ok_and(|taints| !taints.contains("no-network"))
    })?;
    ensure!(taints()?.contains("example.com/later"), "{}", taints()?);
    let none = control.get(&["node", "n3"])?;
    ensure!(none["spec"]["podCIDR"].is_null(), "{none}");
    control.kubectl(&["delete", "node", "n1"])?;
    expect(&control, "n3", ["10.244.2.0/24", "fd00:10:244:2::/64"])?;

    // The leader dies, and a Node goes and comes meanwhile.
    leader.kill()?;
    control.kubectl(&["delete", "node", "early"])?;
    control.add_node("n4", NODE, None)?;
    expect(&control, "n4", ["10.244.1.0/24", "fd00:10:244:3::/64"])?;
    ensure!(other.ended()?.is_none(), "{}", other.log_tail());

    // One that stops gives the Lease back: the next one need not wait.
    ensure!(other.stop()?.success(), "it did not stop well");
    let lease = control.get(&["lease", "-n", "kube-flannel", "twill-podcidr"])?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    ensure!(holder.is_empty(), "{lease}");
    let transitions = lease["spec"]["leaseTransitions"].as_u64();
    ensure!(transitions.context("transitions")? == 1, "{lease}");
    Ok(())
}
