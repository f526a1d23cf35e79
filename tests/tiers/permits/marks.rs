//! A12 and A14: what the mark is given to, and what it is not.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use twill_tests::required;

use crate::lane::{Lane, PERMIT, PORT, Who};
use crate::talk::{Server, Tcp, Udp};

/// Of 200 datagrams in one go, how many a rule that accepts ten and then 20 a second lets pass.
fn through_a_limit(lane: &Lane) -> Result<usize> {
    let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
    let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
    let mut udp = Udp::connect(lane.pod(0).namespace(), 6200, to)?;
    for _ in 0..100 {
        udp.ask()?;
    }
    lane.host(0).run_lines(
        "iptables -I FORWARD -p udp --sport 6200 -j DROP
         iptables -I FORWARD -p udp --sport 6200 -m limit --limit 20/s --limit-burst 10 -j ACCEPT",
    )?;
    udp.socket
        .set_read_timeout(Some(std::time::Duration::from_millis(5)))?;
    Ok((0..200).filter(|_| udp.ask().is_ok()).count())
}

#[test]
fn a12_rules_that_count_see_probes_only_and_every_packet_of_an_excluded_pod() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let count = |lane: Lane| lane.explained(through_a_limit(&lane));
    let stock = count(Lane::new(Who::Stock)?)?;
    let excluded = count(Lane::with(PERMIT, &["--exclude", "10.244.0.0/16"])?)?;
    let lane = Lane::new(PERMIT)?;
    lane.explained(lane.wait_attached())?;
    let permit = count(lane)?;
    ensure!(stock < 60, "stock lets {stock} of 200 pass");
    ensure!(excluded < 60, "excluded: {excluded} of 200, stock {stock}");
    ensure!(
        permit > 190,
        "what is documented no longer is so: {permit} of 200"
    );
    Ok(())
}

#[test]
fn a12_flows_in_a_zone_of_their_own_get_no_permit() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lane = Lane::new(PERMIT)?;
    lane.explained((|| {
        lane.wait_attached()?;
        let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
        for chain in ["PREROUTING", "OUTPUT"] {
            lane.host(0).run_lines(&format!(
                "iptables -t raw -A {chain} -p udp --sport 6201 -j CT --zone 5
                 iptables -t raw -A {chain} -p udp --dport 6201 -j CT --zone 5"
            ))?;
        }
        let mut plain = Udp::connect(lane.pod(0).namespace(), 6202, to)?;
        let mut zoned = Udp::connect(lane.pod(0).namespace(), 6201, to)?;
        lane.make_fast(|| plain.ask().map(drop))?;
        for _ in 0..200 {
            zoned.ask()?;
        }
        let permit = lane.permit(0, 6201)?;
        ensure!(
            permit.is_none_or(|permit| permit.out_until_ns == 0),
            "{permit:?}"
        );
        lane.permit(0, 6202)?.context("the plain flow has none")?;
        Ok(())
    })())
}

#[test]
fn a14_the_mark_is_not_on_what_is_not_the_overlays() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lane = Lane::new(PERMIT)?;
    lane.explained((|| {
        let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let host = lane.host(0);
        host.run_lines(
            "iptables -t mangle -A INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT
             iptables -t mangle -A PREROUTING -m mark --mark 0x1000/0x1000 -j ACCEPT
             iptables -t mangle -A INPUT -p tcp --dport 6300 -j ACCEPT",
        )?;
        let _local = Server::start(host, "local", 6300)?;
        let mut local = Tcp::connect(host, 0, SocketAddrV4::new([127, 0, 0, 1].into(), 6300))?;
        let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
        let mut tcp = Tcp::connect(lane.pod(0).namespace(), 0, to)?;
        lane.make_fast(|| {
            local.ask()?;
            tcp.ask().map(drop)
        })?;
        let counted = |chain: &str, rule: usize| -> Result<u64> {
            let rule = rule.to_string();
            let words = ["iptables", "-t", "mangle", "-vxnL", chain, &rule];
            let text = host.run(&words)?;
            Ok(text
                .split_whitespace()
                .next()
                .context("no counter")?
                .parse()?)
        };
        ensure!(
            counted("INPUT", 2)? > 20,
            "the local connection was not counted"
        );
        for chain in ["INPUT", "PREROUTING"] {
            let marked = counted(chain, 1)?;
            ensure!(marked == 0, "{marked} marked packets in {chain}");
        }
        Ok(())
    })())
}
