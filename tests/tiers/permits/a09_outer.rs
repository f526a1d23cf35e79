//! A9: what OUTPUT, xfrm and netdev egress say of the outer packet holds for what BPF carries,
//! fast flows and slow packets alike; and so does INPUT where it arrives.

use anyhow::{Result, ensure};
use twill_testbed::traffic::ping;

use crate::beat::{Beat, Until, forbid};
use crate::lab::{A, B, Lab, Options, both};
use crate::talk::{Flow, Server};

const PORT: u16 = 5001;

/// Something that stops outer packets: on which node, how it is done and undone.
type Barrier = (usize, &'static str, &'static str);

const OUTPUT: Barrier = (
    A,
    "iptables -I OUTPUT -p udp --dport 8472 -j DROP",
    "iptables -D OUTPUT -p udp --dport 8472 -j DROP",
);
const XFRM: Barrier = (
    A,
    "ip xfrm policy add src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 8472 dir out action block",
    "ip xfrm policy del src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 8472 dir out",
);
const EGRESS: Barrier = (
    A,
    "nft add table netdev wall ; add chain netdev wall out { type filter hook egress device eth0 priority 0 ; } ; add rule netdev wall out udp dport 8472 drop",
    "nft delete table netdev wall",
);
const INPUT: Barrier = (
    B,
    "iptables -I INPUT -p udp --dport 8472 -j DROP",
    "iptables -D INPUT -p udp --dport 8472 -j DROP",
);

fn barriers_hold(lab: &Lab, barriers: &[Barrier], until: Until) -> Result<()> {
    let (from, to) = (lab.pod(A, 0), lab.pod(B, 0));
    let _echo = Server::backend(to, "one")?;
    let beat = Beat::start(Flow::udp(from.namespace(), PORT, Server::address(to))?);
    for (node, put_up, take_down) in barriers {
        lab.wait_fast(&[PORT])?;
        ping(from.namespace(), to.address(), 56)?;
        let forbidden = forbid(lab, &[(*node, put_up)], until)?;
        forbidden.check_ended(&[(put_up, &beat)], &[])?;
        let pinged = ping(from.namespace(), to.address(), 56);
        ensure!(pinged.is_err(), "a ping passes {put_up}");
        lab.on(*node, take_down)?;
        beat.wait_more("the flow goes on without the barrier")?;
    }
    Ok(())
}

#[test]
fn a09_output_rules_and_netdev_egress_stop_outer_packets() -> Result<()> {
    both(Options::default(), |lab| {
        barriers_hold(lab, &[OUTPUT, EGRESS], Until::PermitTime)
    })
}

#[test]
fn a09_xfrm_policies_and_input_rules_stop_outer_packets() -> Result<()> {
    both(Options::default(), |lab| {
        barriers_hold(lab, &[XFRM, INPUT], Until::PermitTime)
    })
}

#[test]
fn a09_an_input_rule_for_outer_packets_stops_flows_at_once_after_a_flush() -> Result<()> {
    both(Options::default(), |lab| {
        barriers_hold(lab, &[INPUT], Until::Flush)
    })
}
