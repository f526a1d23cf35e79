//! The control plane itself: ready in seconds, and it refuses what roles do not grant.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::kubernetes::{ControlPlane, Part, User};
use twill_testbed::topology::Underlay;
use twill_testbed::wait::wait_for;

const PATIENCE: Duration = Duration::from_secs(30);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);

#[test]
fn nodes_get_subnets_and_rights_are_held_to() -> Result<()> {
    if !twill_tests::required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let mut control = ControlPlane::start(&underlay)?;

    // A Node without a podCIDR is given one, one with it keeps it.
    control.add_node("n1", NODE, None)?;
    control.add_node("n2", NODE, Some("10.244.77.0/24"))?;
    let given = wait_for("n1 has a podCIDR", PATIENCE, || {
        let node = control.get(&["node", "n1"])?;
        Ok(node["spec"]["podCIDR"].as_str().map(str::to_owned))
    })?;
    ensure!(given.starts_with("10.244."), "{given}");
    let kept = control.get(&["node", "n2"])?;
    ensure!(kept["spec"]["podCIDR"] == "10.244.77.0/24", "{kept}");

    // flannel's role: it reads Nodes and writes their status, and nothing else.
    let status = ["auth", "can-i", "patch", "nodes", "--subresource=status"];
    for user in [User::Flannel, User::FlannelToken] {
        control.kubectl_as(user, &["get", "nodes"])?;
        // (kubectl itself reads what it patches, for which there is no right.)
        let may = control.kubectl_as(user, &status)?;
        ensure!(may.trim() == "yes", "{may}");
        refused(&control, user, &["annotate", "node", "n1", "x=y"])?;
        refused(&control, user, &["get", "secrets", "-A"])?;
    }
    refused(&control, User::Nobody, &["get", "nodes"])?;
    // A kubelet writes its own Node and no other.
    let word = ["annotate", "--overwrite", "node"];
    control.kubectl_as(User::Node("n1"), &[&word[..], &["n1", "x=y"]].concat())?;
    refused(
        &control,
        User::Node("n1"),
        &[&word[..], &["n2", "x=y"]].concat(),
    )?;

    // Another history with the same certificates.
    control.start_anew()?;
    let nodes = control.kubectl_as(User::Flannel, &["get", "nodes", "--output=name"])?;
    ensure!(nodes.is_empty(), "{nodes}");
    // Away, and back with what it knew.
    control.add_node("n3", NODE, None)?;
    control.kill(Part::ApiServer)?;
    ensure!(
        control
            .kubectl(&["get", "nodes", "--request-timeout=2s"])
            .is_err()
    );
    control.start_again(Part::ApiServer)?;
    control.wait_ready()?;
    let nodes = control.kubectl(&["get", "nodes", "--output=name"])?;
    ensure!(nodes == "node/n3\n", "{nodes}");
    Ok(())
}

fn refused(control: &ControlPlane, user: User<'_>, words: &[&str]) -> Result<()> {
    match control.kubectl_as(user, words) {
        Ok(said) => anyhow::bail!("{user:?} may {words:?}: {said}"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains("orbidden"), "{text}");
            Ok(())
        }
    }
}
