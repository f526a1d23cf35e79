//! A11: what stays when Twill goes, and why.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener};

use anyhow::{Context, Result, ensure};
use twill_testbed::topology::Node;
use twill_testbed::world::{NODE_A, NODE_B, OVERLAY_LINK, UPLINK};
use twill_tests::required;

use crate::lane::{Lane, PORT};
use crate::talk::{ANSWER, connect_from};

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
    if !required() {
        return Ok(());
    }
    let mut lane = Lane::adopting(&[], flannels_device)?;
    let result = teardown(&mut lane);
    lane.explained(result)
}

fn teardown(lane: &mut Lane) -> Result<()> {
    let listen = || TcpListener::bind(("0.0.0.0", PORT));
    let listener = lane.pod(1).namespace().enter(listen)??;
    let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
    let mut client = connect_from(lane.pod(0).namespace(), 6600, to)?;
    let (mut server, _) = listener.accept()?;
    server.set_read_timeout(Some(ANSWER))?;
    client.set_read_timeout(Some(ANSWER))?;
    // Requests so long that conntrack's frozen windows are left far behind.
    let mut buffer = vec![0; 64 * 1024];
    let mut exchange = || -> Result<()> {
        client.write_all(&vec![1; 64 * 1024])?;
        server.read_exact(&mut buffer)?;
        server.write_all(&vec![2; 64 * 1024])?;
        Ok(client.read_exact(&mut buffer)?)
    };
    lane.make_fast(&mut exchange)?;
    for _ in 0..100 {
        exchange()?;
    }
    for member in lane.members() {
        member.agent.stop()?;
        member.agent.ctl(&["teardown"])?;
        ensure!(!member.agent.pins().exists(), "pins are left");
    }
    for side in [0, 1] {
        for key in ["be_liberal", "ignore_invalid_rst"] {
            let key = format!("net.netfilter.nf_conntrack_tcp_{key}");
            ensure!(lane.host(side).sysctl(&key)? == "1", "{key} was reset");
        }
    }
    for _ in 0..100 {
        exchange().context("after the teardown")?;
    }
    // And this is why they stay.
    for side in [0, 1] {
        lane.host(side)
            .set_sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")?;
    }
    ensure!(exchange().is_err(), "the settings are not needed");
    Ok(())
}
