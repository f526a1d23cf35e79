//! Programs on their hooks, by whichever way the kernel has.

use std::fs;
use std::path::Path;

use anyhow::Result;
use nix::net::if_::if_nametoindex;
use twill_agent::datapath::attach::AttachBy;
use twill_agent::datapath::pins::Pins;
use twill_agent::datapath::place::{Interface, Interfaces};
use twill_agent::datapath::{Datapath, detach_all};
use twill_testbed::wait::wait_until;
use twill_tests::required;

use super::lab::{BPFFS, Lab, SECONDS, ids, settings};

#[test]
fn what_somebody_detaches_comes_back() -> Result<()> {
    comes_back(AttachBy::Auto)
}

#[test]
fn a_filter_that_somebody_detaches_comes_back() -> Result<()> {
    comes_back(AttachBy::Netlink)
}

fn comes_back(by: AttachBy) -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(by)?;
    lab.with(async |options, interfaces| {
        let mut datapath = Datapath::open(options, 7, 24)?;
        datapath.write_settings(&settings(&interfaces)?)?;
        datapath.attach(&interfaces).await?;
        let expected = ids(&datapath);
        let pin = lab.pin("to_overlay", interfaces.overlay.ifindex);

        // The link is open here, and a filter needs no pin: nothing stops, and the pin comes
        // back.
        fs::remove_file(&pin)?;
        let program = Pins::program(&lab.pins().current(), "from_pod");
        fs::remove_file(&program)?;
        assert_eq!(
            lab.attached("flannel.7")?,
            [("to_overlay".to_owned(), expected[0])]
        );
        datapath.attach(&interfaces).await?;
        assert_eq!(ids(&datapath), expected);
        assert!(pin.exists() && program.exists());
        assert_eq!(
            lab.attached("flannel.7")?,
            [("to_overlay".to_owned(), expected[0])]
        );

        lab.detach("flannel.7", &pin)?;
        assert_eq!(lab.attached("flannel.7")?, []);
        datapath.attach(&interfaces).await?;
        assert_eq!(
            lab.attached("flannel.7")?,
            [("to_overlay".to_owned(), expected[0])]
        );

        // Attaching what is attached changes nothing.
        datapath.attach(&interfaces).await?;
        assert_eq!(
            lab.attached("flannel.7")?,
            [("to_overlay".to_owned(), expected[0])]
        );
        Ok(())
    })
}

#[test]
fn programs_follow_the_uplink_and_leave_nothing_behind() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    lab.with(async |options, interfaces| {
        let mut datapath = Datapath::open(options, 7, 24)?;
        datapath.attach(&interfaces).await?;
        let moved = Interfaces {
            uplink: Interface {
                name: "up1".to_owned(),
                ifindex: if_nametoindex("up1")?,
            },
            ..interfaces
        };
        datapath.attach(&moved).await?;
        // The kernel lets go of a link a moment after its pin is gone.
        wait_until("nothing is left on the old uplink", SECONDS, || {
            lab.attached("up0")
                .is_ok_and(|attached| attached.is_empty())
        })?;
        assert_eq!(lab.attached("up1")?.len(), 1);
        Ok(())
    })
}

#[test]
fn foreign_programs_on_our_hooks_stay() -> Result<()> {
    if !required() {
        return Ok(());
    }
    // Another agent's programs, as anybody's would be: same hooks, other pins.
    let lab = Lab::new(AttachBy::Auto)?;
    let ours = lab.start()?;
    let mut other = lab.options.clone();
    other.instance = format!("{}-other", other.instance).parse()?;
    // A filter takes its slot for itself.
    other.slot.priority += 1;
    let other_pins = Pins::new(Path::new(BPFFS), &other.instance);
    let theirs = lab.with(async |_, interfaces| {
        let mut datapath = Datapath::open(&other, 7, 24)?;
        datapath.attach(&interfaces).await?;
        let others = &datapath.attachments()[0].others;
        if lab.by_tcx {
            assert_eq!(others, &["to_overlay"], "the other is seen");
        }
        Ok(ids(&datapath))
    })?;
    let both = lab.attached("up0")?;
    assert_eq!(both.len(), 2, "{both:?}");

    let ours_again = lab.start()?;
    assert!(ours.iter().all(|old| !ours_again.contains(old)));
    let removals = lab.with(async |_, _| Ok(detach_all(&lab.pins()).await))?;
    assert!(removals.iter().all(|removal| removal.result.is_ok()));
    // The kernel lets go of a link a moment after its pin is gone.
    for (interface, program, id) in [
        ("up0", "from_uplink", theirs[1]),
        ("flannel.7", "to_overlay", theirs[0]),
    ] {
        let only = [(program.to_owned(), id)];
        wait_until("only the other's program is left", SECONDS, || {
            lab.attached(interface)
                .is_ok_and(|attached| attached == only)
        })?;
    }
    assert!(other_pins.remove_all().is_empty());
    Ok(())
}

#[test]
fn a_pod_that_cannot_be_looked_at_keeps_its_programs() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    lab.namespace
        .run_lines("ip link add veth7 type veth peer name pod7")?;
    lab.with(async |options, mut interfaces| {
        let ifindex = if_nametoindex("veth7")?;
        let named = |name: &str| Interface {
            name: name.to_owned(),
            ifindex,
        };
        let mut datapath = Datapath::open(options, 7, 24)?;
        interfaces.pods = vec![named("veth7")];
        datapath.attach(&interfaces).await?;
        let attached = datapath.attachments().to_vec();
        assert_eq!(lab.pins().attachments()?.len(), 5);
        // Renamed between our look at the links and that at its hooks.
        interfaces.pods = vec![named("veth0")];
        datapath.attach(&interfaces).await?;
        assert_eq!(lab.pins().attachments()?.len(), 5, "nothing is detached");
        assert_eq!(datapath.attachments(), attached, "and nothing forgotten");
        // It is no pod's any more.
        interfaces.pods.clear();
        datapath.attach(&interfaces).await?;
        assert_eq!(lab.pins().attachments()?.len(), 3);
        Ok(())
    })
}
