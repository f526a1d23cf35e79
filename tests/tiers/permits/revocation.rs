//! A new rule that drops an established flow stops it, wherever it stands and whichever
//! direction it names: within the permit time, and at once after a flush.

use anyhow::Result;

use crate::beat::{Beat, Until, forbid};
use crate::lab::{A, B, Lab, Options, both};
use crate::rules::ONE;
use crate::talk::{Flow, Server};

/// The rules, each for the flow with one port of the pod's: which node, and what it says.
const RULES: [(usize, &str); 4] = [
    (A, "iptables -I FORWARD -p udp --sport 5001 -j DROP"),
    (
        A,
        "iptables -t raw -I PREROUTING -p udp --sport 5002 -j DROP",
    ),
    // Replies only, on the node that asks and on the one that answers.
    (
        A,
        "iptables -t mangle -I POSTROUTING -p udp --dport 5003 -j DROP",
    ),
    (
        B,
        "iptables -t mangle -I FORWARD -p udp --dport 5004 -j DROP",
    ),
];
const CONTROL: u16 = 5005;

fn rules_stop_flows(lab: &Lab, until: Until) -> Result<()> {
    let (from, to) = (lab.pod(A, 0), lab.pod(B, 0));
    let _echo = Server::backend(to, "one")?;
    let flow = |port| Flow::udp(from.namespace(), port, Server::address(to)).map(Beat::start);
    let beats = [flow(5001)?, flow(5002)?, flow(5003)?, flow(5004)?];
    let control = flow(CONTROL)?;
    let service = Flow::tcp(from.namespace(), 0, ONE)?;
    let port = service.port()?;
    let service = Beat::start(service);
    lab.wait_fast(&[5001, 5002, 5003, 5004, CONTROL, port])?;

    let service_rule = format!("iptables -I FORWARD -p tcp --sport {port} -j DROP");
    let rules = [&RULES[..], &[(A, service_rule.as_str())]].concat();
    let forbidden = forbid(lab, &rules, until)?;
    let mut ended: Vec<_> = RULES
        .map(|(_, rule)| rule)
        .into_iter()
        .zip(&beats)
        .collect();
    ended.push((&service_rule, &service));
    forbidden.check_ended(&ended, &[("the control flow", &control)])?;
    // The flow that no rule names is as fast as before.
    lab.wait_fast(&[CONTROL])
}

#[test]
fn c_rules_stop_fast_flows_within_the_permit_time() -> Result<()> {
    both(Options::default(), |lab| {
        rules_stop_flows(lab, Until::PermitTime)
    })
}

#[test]
fn c_rules_stop_fast_flows_at_once_after_a_flush() -> Result<()> {
    both(Options::default(), |lab| {
        rules_stop_flows(lab, Until::Flush)
    })
}
