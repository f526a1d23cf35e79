//! Somebody lays hands on `flannel.1`.

use anyhow::{Result, ensure};
use twill_testbed::traffic::Report;
use twill_testbed::wait::wait_for;
use twill_testbed::world::OVERLAY_LINK;
use twill_tests::required;

use crate::scene::{ONCE, PATIENCE, Scene};

#[test]
fn a_deleted_device_breaks_no_flow() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(ONCE)?;
    let report = scene.measure("flannel.1 deleted by hand", |cluster| {
        let node = cluster.members[0].node.namespace();
        let old = node.link_json(OVERLAY_LINK)?["ifindex"].clone();
        node.run(&["ip", "link", "del", "dev", OVERLAY_LINK])?;
        wait_for("the device is back", PATIENCE, || {
            ensure!(
                node.link_json(OVERLAY_LINK)?["ifindex"] != old,
                "the old one"
            );
            Ok(Some(()))
        })
    })?;
    no_flow_is_broken(&report)
}

fn no_flow_is_broken(report: &Report) -> Result<()> {
    ensure!(report.broken_flows() == 0, "broken flows: {report:?}");
    ensure!(report.datagrams.changed == 0, "changed: {report:?}");
    // What is lost is what the kernel had no device for, until the agent heard of it.
    let gap = report.datagrams.longest_gap_ms;
    let lost = report.datagrams.lost;
    ensure!(
        gap < 3_000,
        "no datagram came for {gap} ms, {lost} were lost"
    );
    Ok(())
}
