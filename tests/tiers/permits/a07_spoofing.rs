//! A7: a permit belongs to a veth. Another pod of the node that forges address and port of a
//! fast flow meets every rule, as on stock nodes.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::forge::RawIp;
use twill_testbed::packet::{Ipv4, Udp};
use twill_testbed::pod::Pod;
use twill_testbed::wait::wait_until;

use crate::beat::Beat;
use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run};
use crate::rules::ECHO;
use crate::talk::{Flow, Server};

const PORT: u16 = 5601;
const FORGED: u64 = 200;
const WORD: &[u8] = b"spoofed";

/// Packets that the rule has dropped.
fn dropped(lab: &Lab) -> Result<u64> {
    let rules = lab.on(A, "iptables -t raw -L PREROUTING -v -n -x")?;
    let rule = rules.lines().find(|line| line.contains("PHYSDEV"));
    let packets = rule.and_then(|line| line.split_whitespace().next());
    let packets = packets.and_then(|packets| packets.parse().ok());
    packets.with_context(|| format!("no anti-spoofing rule in {rules}"))
}

/// Echoes, and counts what was forged.
fn serve(socket: &UdpSocket, stop: &AtomicBool, forged: &AtomicU64) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if buffer[..length].starts_with(WORD) {
            forged.fetch_add(1, Ordering::Relaxed);
        } else {
            // A lost answer is the client's finding.
            drop(socket.send_to(&Server::answer("one", from, &buffer[..length]), from));
        }
    }
}

fn forging_is_in_vain(lab: &Lab) -> Result<()> {
    let (victim, hostile, to) = (lab.pod(A, 0), lab.pod(A, 1), lab.pod(B, 0));
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ECHO));
    let server = to.namespace().enter(bind)??;
    server.set_read_timeout(Some(Duration::from_millis(50)))?;
    let (stop, forged) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&server, &stop, &forged));
        let tried = attack(lab, victim, hostile, to);
        stop.store(true, Ordering::Relaxed);
        tried
    })?;
    let forged = forged.into_inner();
    ensure!(forged == 0, "{forged} forged datagrams arrived");
    Ok(())
}

fn attack(lab: &Lab, victim: &Pod, hostile: &Pod, to: &Pod) -> Result<()> {
    let veth = lab.veth(A, 1)?;
    let own = hostile.address();
    lab.on(
        A,
        &format!("iptables -t raw -A PREROUTING -m physdev --physdev-in {veth} ! -s {own} -j DROP"),
    )?;
    let beat = Beat::start(Flow::udp(victim.namespace(), PORT, Server::address(to))?);
    lab.wait_fast(&[PORT])?;
    let foreign = lab.count(A, "from_pod", "foreign_veth")?;
    let raw = RawIp::open(hostile.namespace())?;
    let packet = Ipv4::new(victim.address(), to.address()).udp(&Udp::new(PORT, ECHO), WORD);
    for _ in 0..FORGED {
        raw.send(to.address(), &packet)?;
    }
    // And the first datagrams of flows that the victim never began.
    for port in (PORT + 1..).take(usize::try_from(FORGED)?) {
        let packet = Ipv4::new(victim.address(), to.address()).udp(&Udp::new(port, ECHO), WORD);
        raw.send(to.address(), &packet)?;
    }
    wait_until("the rule has dropped all of it", SECONDS, || {
        dropped(lab).is_ok_and(|dropped| dropped == 2 * FORGED)
    })
    .with_context(|| format!("it dropped {:?}", dropped(lab)))?;
    if lab.has_programs() {
        // They met a live permit, or the test proves nothing.
        let foreign = lab.count(A, "from_pod", "foreign_veth")? - foreign;
        ensure!(foreign > FORGED / 2, "{foreign} met the permit");
    }
    // The victim's flow has not suffered.
    beat.wait_more("the victim's flow goes on")?;
    lab.wait_fast(&[PORT])
}

#[test]
fn a07_a_forged_source_does_not_use_anothers_permit() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| {
        forging_is_in_vain(lab)
    })
    .map(drop)
}
