//! A8: what netfilter made of one packet is not learned for another. A connected raw socket
//! gives all its packets one hash, whatever is in them; notes must not go by it.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use twill_abi::Pending;
use twill_testbed::forge::RawIp;
use twill_testbed::packet::{Ipv4, Udp};
use twill_testbed::traffic::EchoServer;
use twill_testbed::wait::pass;
use twill_tests::required;

use crate::beat::Beat;
use crate::flow::{Flow, echo};
use crate::lab::{A, B, Kind, Lab, Options, both};
use crate::rules::UDP_ONE;

const VICTIM: u16 = 5555;
const TUPLES: u16 = 200;
/// Where the hostile pod's friend listens; each port is another flow, which has to be slow now
/// and then.
const EVIL: std::ops::Range<u16> = 6000..10_000;
const ATTACK: Duration = Duration::from_secs(5);

fn notes(lab: &Lab) -> Result<Vec<Pending>> {
    let pin = lab.member(A).agent.pins().join("v1").join("pending");
    let map = Map::from_map_data(MapData::from_pin(pin)?)?;
    let map: HashMap<_, u32, Pending> = map.try_into()?;
    let notes = map.iter().filter_map(Result::ok);
    Ok(notes.map(|(_, note)| note).collect())
}

#[test]
fn a08_notes_do_not_go_by_the_hash_of_a_socket() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(Kind::Twill, Options::default())?;
    let (from, to) = (lab.pod(A, 1), lab.pod(B, 0));
    let raw = RawIp::connected(from.namespace(), to.address())?;
    for port in 0..TUPLES {
        let packet = Ipv4::new(from.address(), to.address());
        raw.send(to.address(), &packet.udp(&Udp::new(20_000 + port, 9), b"x"))?;
    }
    let ports = 20_000..20_000 + TUPLES;
    let noted = notes(&lab)?;
    let noted = noted
        .iter()
        .filter(|note| ports.contains(&note.tuple.local_port.to_host()));
    let noted = noted.count();
    // Two of 200 may share one of 2^32 hashes; hardly more.
    ensure!(noted + 2 >= usize::from(TUPLES), "{noted} notes");
    Ok(())
}

/// Counts what the victim's requests are, of all that comes to the friend's ports, and answers
/// everything so that conntrack takes the flows for established.
fn befriend(socket: &UdpSocket, stop: &AtomicBool, diverted: &AtomicU64) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if &buffer[..length] != b"evil" {
            diverted.fetch_add(1, Ordering::Relaxed);
        }
        // Lost answers are no matter.
        drop(socket.send_to(b"evil", from));
    }
}

/// Sends packets in the victim's name by one connected raw socket, in turns to `to`.
fn forge(lab: &Lab, stop: &AtomicBool, raw: &RawIp, to: &[(SocketAddrV4, u8)]) -> u64 {
    let victim = lab.pod(A, 0).address();
    let packets: Vec<_> = to
        .iter()
        .map(|(to, ttl)| {
            let header = Ipv4 {
                ttl: *ttl,
                ..Ipv4::new(victim, *to.ip())
            };
            (*to.ip(), header.udp(&Udp::new(VICTIM, to.port()), b"evil"))
        })
        .collect();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for (to, packet) in &packets {
            // A full queue is no matter.
            if raw.send(*to, packet).is_ok() {
                sent += 1;
            }
        }
    }
    sent
}

fn service_is_not_diverted(lab: &Lab) -> Result<()> {
    let (victim, hostile, friend) = (lab.pod(A, 0), lab.pod(A, 1), lab.pod(B, 1));
    let _echo = EchoServer::start(lab.pod(B, 0).namespace())?;
    // All ports at one socket, so that it keeps up.
    let redirect = format!(
        "iptables -t nat -A PREROUTING -p udp --dport {}:{} -j REDIRECT --to-ports {}",
        EVIL.start,
        EVIL.end - 1,
        EVIL.start
    );
    friend.namespace().run_lines(&redirect)?;
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, EVIL.start));
    let socket = friend.namespace().enter(bind)??;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let beat = Beat::start(Flow::udp(victim, VICTIM, UDP_ONE.at)?);
    lab.wait_fast(&[VICTIM])?;
    let (stop, diverted) = (AtomicBool::new(false), AtomicU64::new(0));
    // One hash for all that the hostile pod sends.
    let raw = RawIp::connected(hostile.namespace(), friend.address())?;
    // The one kind dies before it is forwarded, or right behind; the other goes to the friend.
    let decoys = [(UDP_ONE.at, 1), (UDP_ONE.at, 2)];
    let lures: Vec<_> = EVIL
        .map(|port| (SocketAddrV4::new(friend.address(), port), 64))
        .collect();
    let sent = std::thread::scope(|scope| -> Result<u64> {
        scope.spawn(|| befriend(&socket, &stop, &diverted));
        let threads = [&decoys[..], &lures].map(|to| scope.spawn(|| forge(lab, &stop, &raw, to)));
        let passed = pass(ATTACK);
        stop.store(true, Ordering::Relaxed);
        let mut sent = 0;
        for thread in threads {
            match thread.join() {
                Ok(count) => sent += count,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        passed.map(|()| sent)
    })?;
    let diverted = diverted.into_inner();
    ensure!(
        diverted == 0,
        "{diverted} requests went to the hostile pod's friend"
    );
    ensure!(sent > 10_000, "only {sent} packets were forged");
    let before = beat.answers();
    pass(Duration::from_secs(1))?;
    ensure!(beat.answers() > before + 50, "the victim has no answers");
    drop(beat);
    let flow = Flow::udp(victim, 0, echo(lab.pod(B, 0)));
    flow?.until_fast(lab).context("after the attack")
}

#[test]
fn a08_a_service_flow_is_never_diverted() -> Result<()> {
    if !required() {
        return Ok(());
    }
    both(Options::default(), |lab| service_is_not_diverted(lab))
}
