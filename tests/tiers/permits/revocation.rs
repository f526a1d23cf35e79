//! A new rule that drops an established flow stops it, wherever it stands and whichever
//! direction it names: within the permit time, and at once after a flush.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::forge::RawIp;
use twill_testbed::packet::{Ipv4, Udp};
use twill_testbed::wait::pass;

use crate::beat::{Beat, Until, forbid};
use crate::lab::{A, B, Lab, Options, both};
use crate::rules::{ECHO, ONE};
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

const NEIGHBOURS: u16 = 5006;
/// What comes in by the overlay alone.
const FROM_OVERLAY: (usize, &str) = (
    A,
    "iptables -I FORWARD -i flannel.1 -p udp --dport 5006 -j DROP",
);

/// Another pod of the node says what the other side would, to keep the flow accepted.
fn a_neighbour_renews_nothing(lab: &Lab) -> Result<()> {
    let (from, to, accomplice) = (lab.pod(A, 0), lab.pod(B, 0), lab.pod(A, 1));
    let _echo = Server::backend(to, "one")?;
    let flow = Flow::udp(from.namespace(), NEIGHBOURS, Server::address(to))?;
    let beat = Beat::start(flow);
    lab.wait_fast(&[NEIGHBOURS])?;
    let forger = RawIp::open(accomplice.namespace())?;
    let reply = Ipv4::new(to.address(), from.address());
    let reply = reply.udp(&Udp::new(ECHO, NEIGHBOURS), b"0");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let forging = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                forger.send(from.address(), &reply)?;
                pass(Duration::from_millis(10))?;
            }
            Ok(())
        });
        let delivered = lab.count(A, "to_pod", "not_from_overlay")?;
        let forbidden = forbid(lab, &[FROM_OVERLAY], Until::PermitTime)?;
        let ended = forbidden.check_ended(&[("the flow", &beat)], &[]);
        stop.store(true, Ordering::Relaxed);
        match forging.join() {
            Ok(forged) => forged?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        ended?;
        let delivered = lab.count(A, "to_pod", "not_from_overlay")? - delivered;
        // They were accepted as the connection's, or the test proves nothing.
        ensure!(
            !lab.has_programs() || delivered > 50,
            "{delivered} accepted"
        );
        Ok(())
    })
}

#[test]
fn c_a_neighbour_that_speaks_for_the_other_side_renews_nothing() -> Result<()> {
    both(Options::default(), |lab| a_neighbour_renews_nothing(lab))
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
