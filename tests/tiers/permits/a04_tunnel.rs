//! A4: a vxlan device inside pods works over a fast flow: what cannot be encapsulated once more
//! goes the kernel's way.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::traffic::{EchoServer, ping, tcp_echo};

use crate::lab::{A, B, Kind, Lab, Options, run};

const INSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 31, 0, 1), Ipv4Addr::new(172, 31, 0, 2)];

fn tunnel_works(lab: &Lab) -> Result<()> {
    let pods = [lab.pod(A, 0), lab.pod(B, 0)];
    for (own, other) in [(0, 1), (1, 0)] {
        // One source port, so that the outer flow is one that conntrack knows both ways.
        let (local, remote) = (pods[own].address(), pods[other].address());
        pods[own].namespace().run_lines(&format!(
            "ip link add vx0 mtu 1400 type vxlan id 77 local {local} remote {remote} dstport 4789 srcport 4789 4790
             ip addr add {}/24 dev vx0
             ip link set vx0 up",
            INSIDE[own]
        ))?;
    }
    let (from, to) = (pods[0].namespace(), INSIDE[1]);
    let _echo = EchoServer::start(pods[1].namespace())?;
    lab.make_fast(|| ping(from, to, 56).map(drop))
        .context("the tunnel")?;
    let refused = lab.count(A, "from_pod", "encap_refused")?;
    tcp_echo(from, to, 5_000_000)?;
    if lab.kind == Kind::Twill {
        let refused = lab.count(A, "from_pod", "encap_refused")? - refused;
        ensure!(refused > 10, "{refused} packets were refused");
    }
    Ok(())
}

#[test]
fn a04_tcp_passes_through_a_vxlan_device_inside_pods() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| tunnel_works(lab)).map(drop)
}
