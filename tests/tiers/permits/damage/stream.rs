//! A TCP connection of which every fortieth segment is damaged on the way.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::world::PORT;

use super::{PATIENCE, fast, gro};
use crate::lab::{A, B, Kind, Lab, Options, run};
use crate::rules::ONE;
use crate::talk::{Ends, Server, connect_from};

/// Bytes of the stream.
const LENGTH: usize = 2_000_000;

/// Every fortieth long packet that the first node sends has another byte in its payload. By the link
/// layer's offset: nft would make good the outer checksum for another's.
const DAMAGE: &str = "nft add table netdev damage
    nft add chain netdev damage c { type filter hook ingress device a priority 0 ; }";

fn no_damaged_byte(lab: &Lab) -> Result<()> {
    gro(lab, true)?;
    // Sums that are still to be taken would be taken over the damage.
    let client = lab.pod(A, 0).namespace();
    client.run(&["ethtool", "-K", "eth0", "tx", "off"])?;
    let switch = lab.cluster.underlay.switch();
    switch.run_lines(DAMAGE)?;
    let rule = format!(
        "nft add rule netdev damage c udp dport {PORT} @nh,16,16 > 1000 numgen inc mod 40 == 0 @ll,1872,8 set 0x55 counter"
    );
    switch.run_lines(&rule)?;
    let listener = Ends::listen(lab.pod(B, 0))?;
    for to in [Server::address(lab.pod(B, 0)), ONE] {
        let before = fast(lab)?;
        let stream = connect_from(client, 0, to)?;
        let (accepted, _) = listener.accept().context("no connection")?;
        carries(stream, accepted, to)?;
        let fast = fast(lab)? - before;
        ensure!(
            !lab.has_programs() || fast > 100,
            "to {to}: {fast} were fast"
        );
    }
    let counted = switch.run(&["nft", "list", "table", "netdev", "damage"])?;
    ensure!(
        !counted.contains("packets 0 "),
        "nothing was damaged: {counted}"
    );
    Ok(())
}

fn carries(mut from: TcpStream, mut into: TcpStream, to: SocketAddrV4) -> Result<()> {
    let sent: Vec<u8> = (0..=250_u8).cycle().take(LENGTH).collect();
    into.set_read_timeout(Some(PATIENCE))?;
    from.set_write_timeout(Some(PATIENCE))?;
    let mut received = Vec::with_capacity(LENGTH);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            from.write_all(&sent)?;
            from.shutdown(Shutdown::Write)
        });
        let read = into.read_to_end(&mut received);
        let written = writer.join().ok().context("the sender panicked")?;
        read.with_context(|| format!("of the stream to {to} came {}", received.len()))?;
        written.with_context(|| format!("send to {to}"))
    })?;
    ensure!(received.len() == LENGTH, "{} bytes came", received.len());
    let pairs = sent.iter().zip(&received);
    let damaged = pairs.filter(|(sent, received)| sent != received).count();
    ensure!(damaged == 0, "to {to}: {damaged} bytes are damaged");
    Ok(())
}

#[test]
fn a_stream_has_no_damaged_byte_whatever_is_damaged_on_the_way() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| no_damaged_byte(lab)).map(drop)
}
