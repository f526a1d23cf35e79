//! A11: what stays when Twill goes, and why.

use anyhow::{Context, Result, ensure};
use twill_testbed::topology::Node;
use twill_testbed::world::{NODE_A, NODE_B, OVERLAY_LINK, UPLINK};

use crate::lab::{A, B, Lab, Options, twill};
use crate::talk::{Ends, Server};

/// So long that conntrack's frozen windows are soon left far behind.
const LONG: usize = 64 * 1024;

/// A device as flannel makes it: Twill uses it, and leaves it.
fn flannels_device(node: &Node) -> Result<()> {
    let (address, last) = if node.address() == NODE_A {
        (NODE_A, "0a")
    } else {
        (NODE_B, "0b")
    };
    node.namespace().run_lines(&format!(
        "ip link add {OVERLAY_LINK} address 02:00:00:00:00:{last} type vxlan id 1 local {address} dev {UPLINK} nolearning dstport 8472
         ip link set {OVERLAY_LINK} mtu 1450 up"
    ))
}

#[test]
fn a11_a_long_flow_survives_teardown_and_needs_the_settings_that_stay() -> Result<()> {
    let options = Options {
        prepare: Some(flannels_device),
        ..Options::default()
    };
    twill(options, teardown)
}

fn teardown(lab: &mut Lab) -> Result<()> {
    let listener = Ends::listen(lab.pod(B, 0))?;
    let to = Server::address(lab.pod(B, 0));
    let mut ends = Ends::open(lab.pod(A, 0).namespace(), 6600, to, &listener)?;
    lab.make_fast(|| ends.exchange())?;
    for _ in 0..100 {
        ends.exchange_long(LONG)?;
    }
    for member in &mut lab.cluster.members {
        member.agent.stop()?;
        member.agent.ctl(&["teardown"])?;
        ensure!(!member.agent.pins().exists(), "pins are left");
    }
    for node in [A, B] {
        for key in ["be_liberal", "ignore_invalid_rst"] {
            let key = format!("net.netfilter.nf_conntrack_tcp_{key}");
            ensure!(lab.host(node).sysctl(&key)? == "1", "{key} was reset");
        }
    }
    for _ in 0..100 {
        ends.exchange_long(LONG).context("after the teardown")?;
    }
    // And this is why they stay.
    for node in [A, B] {
        lab.host(node)
            .set_sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")?;
    }
    let exchanged = ends.exchange_long(LONG);
    ensure!(exchanged.is_err(), "the settings are not needed");
    Ok(())
}
