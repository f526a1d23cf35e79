//! A person's MTU on the overlay's device: flanneld never touches it, and nor does Twill.

use anyhow::{Result, ensure};
use serde_json::Value;
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B, OVERLAY_LINK};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};
use super::member::{Kind, Member};

#[test]
fn a_persons_mtu_stays_while_the_daemon_runs_and_when_it_starts_again() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    for (kind, label, address) in [(Kind::Flanneld, "a", NODE_A), (Kind::Twill, "b", NODE_B)] {
        let mut member = Member::new(&lab, label, address)?;
        member.start(kind)?;
        let link = |member: &Member| member.node.namespace().link_json(OVERLAY_LINK);
        let mtu = |member: &Member| -> Result<Value> { Ok(link(member)?["mtu"].clone()) };
        ensure!(mtu(&member)? == 1450, "{kind:?} makes {}", link(&member)?);
        let change = format!("ip link set {OVERLAY_LINK} mtu 1300");
        member.node.namespace().run_lines(&change)?;
        if kind == Kind::Twill {
            look_again(&member)?;
        }
        ensure!(mtu(&member)? == 1300, "{kind:?} has {}", link(&member)?);
        // `start` finds subnet.env as it was.
        member.stop()?;
        member.start(kind)?;
        ensure!(mtu(&member)? == 1300, "{kind:?} leaves {}", link(&member)?);
    }
    Ok(())
}

/// Has Twill look at its device, and put right what is its own.
fn look_again(member: &Member) -> Result<()> {
    let namespace = member.node.namespace();
    let shown = || namespace.run(&["ip", "-4", "-o", "address", "show", "dev", OVERLAY_LINK]);
    let before = shown()?;
    namespace.run_lines(&format!("ip address flush dev {OVERLAY_LINK}"))?;
    wait_until("the device's address is back", PATIENCE, || {
        shown().is_ok_and(|now| now == before)
    })
}
