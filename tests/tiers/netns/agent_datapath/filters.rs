//! Filters of traffic control: replaced in place, never taken from anybody.

use anyhow::{Context as _, Result};
use twill_agent::datapath::attach::AttachBy;
use twill_agent::datapath::{Datapath, DatapathError, Options, detach_all};
use twill_tests::required;

use super::lab::Lab;

#[test]
fn tc_filters_are_replaced_in_place_and_removed_only_if_ours() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Netlink)?;
    let filters = |interface: &str, direction: &str| -> Result<String> {
        lab.namespace
            .run(&["tc", "filter", "show", "dev", interface, direction])
    };
    let first = lab.start()?;
    let second = lab.start()?;
    assert!(first.iter().all(|old| !second.contains(old)));
    let shown = filters("flannel.7", "egress")?;
    assert!(shown.contains(&format!("id {} ", second[0])), "{shown}");
    assert_eq!(shown.matches("direct-action").count(), 1, "{shown}");
    let shown = filters("up0", "ingress")?;
    assert!(shown.contains(&format!("id {} ", second[1])), "{shown}");

    if Lab::new(AttachBy::Auto)?.by_tcx {
        // A start that attaches by TCX takes the filters away.
        let tcx = Options {
            attach_by: AttachBy::Auto,
            ..lab.options.clone()
        };
        lab.with(async |_, interfaces| {
            let mut datapath = Datapath::open(&tcx, 7, 24)?;
            datapath.attach(&interfaces).await?;
            assert!(datapath.attachments().iter().all(|a| a.by == "tcx"));
            Ok(())
        })?;
        assert_eq!(filters("flannel.7", "egress")?, "");
        assert_eq!(filters("up0", "ingress")?, "");
    }
    let qdiscs = lab.namespace.run(&["tc", "qdisc", "show", "dev", "up0"])?;
    assert!(qdiscs.contains("clsact"), "never removed: {qdiscs}");

    // And back, then everything away.
    lab.start()?;
    assert_eq!(
        filters("up0", "ingress")?.matches("direct-action").count(),
        1
    );
    let removals = lab.with(async |_, _| Ok(detach_all(&lab.pins()).await))?;
    assert!(
        removals.iter().all(|removal| removal.result.is_ok()),
        "{removals:?}"
    );
    assert_eq!(filters("flannel.7", "egress")?, "");
    assert_eq!(filters("up0", "ingress")?, "");
    Ok(())
}

#[test]
fn a_foreign_filter_in_our_slot_stays_and_is_named() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Netlink)?;
    lab.namespace.run_lines(
        "tc qdisc add dev up0 clsact
         tc filter add dev up0 ingress prio 50 protocol all u32 match u32 0 0 action mirred egress redirect dev up1",
    )?;
    let error = lab.start().expect_err("the slot is taken");
    let error = error
        .downcast_ref::<DatapathError>()
        .context("a datapath error")?;
    let text = twill_core::chain::chain(error);
    assert!(
        text.contains("--tc-priority") && text.contains("up0"),
        "{text}"
    );
    let shown = lab
        .namespace
        .run(&["tc", "filter", "show", "dev", "up0", "ingress"])?;
    assert!(shown.contains("u32"), "{shown}");
    Ok(())
}
