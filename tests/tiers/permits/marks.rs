//! A12 and A14: what the mark is given to, and what it is not.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::{A, B, Kind, Lab, Options, run, twill};
use crate::talk::{Flow, Server};

/// Of 200 questions in one go, how many a rule that accepts ten and then 20 a second lets pass,
/// and how many it should at most in the time that they took.
fn through_a_limit(lab: &Lab, fast: bool) -> Result<(u32, f64)> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let mut udp = Flow::udp(
        lab.pod(A, 0).namespace(),
        6200,
        Server::address(lab.pod(B, 0)),
    )?;
    if fast {
        lab.until_fast(&mut udp)?;
    } else {
        udp.ask_times(100)?;
        let counts = lab.fast_counts()?;
        ensure!(counts.iter().all(|count| *count == 0), "{counts:?} fast");
    }
    lab.host(A).run_lines(
        "iptables -I FORWARD -p udp --sport 6200 -j DROP
         iptables -I FORWARD -p udp --sport 6200 -m limit --limit 20/s --limit-burst 10 -j ACCEPT",
    )?;
    udp.set_patience(Duration::from_millis(5));
    let begin = Instant::now();
    let passed = (0..200).map(|_| u32::from(udp.ask().is_ok())).sum();
    // Ten at once and twenty a second, and a few for the ends.
    Ok((passed, 20.0f64.mul_add(begin.elapsed().as_secs_f64(), 15.0)))
}

#[test]
fn a12_rules_that_count_see_probes_only_and_every_packet_of_an_excluded_pod() -> Result<()> {
    let exclude = Options::flags(&["--exclude", "10.244.0.0/16"]);
    let modes = [Kind::Twill, Kind::Direct];
    let excluded = run(&modes, exclude, |lab| through_a_limit(lab, false))?;
    let found = run(&Kind::BOTH, Options::default(), |lab| {
        through_a_limit(lab, true)
    })?;
    if let ([stock, permit], [excluded, direct]) = (&found[..], &excluded[..]) {
        for (name, (passed, limit)) in [
            ("stock", stock),
            ("excluded", excluded),
            ("excluded, direct", direct),
        ] {
            let held = f64::from(*passed) <= *limit && *passed < 190;
            ensure!(held, "{name}: {passed} of 200, the limit is {limit}");
        }
        let (passed, limit) = permit;
        let documented = *passed > 190 && f64::from(*passed) > *limit;
        ensure!(documented, "no longer as documented: {passed}, {limit}");
    }
    Ok(())
}

#[test]
fn a12_flows_with_a_zone_or_a_helper_get_no_permit() -> Result<()> {
    twill(Options::default(), |lab| {
        let _server = Server::backend(lab.pod(B, 0), "one")?;
        let to = Server::address(lab.pod(B, 0));
        for chain in ["PREROUTING", "OUTPUT"] {
            lab.host(A).run_lines(&format!(
                "iptables -t raw -A {chain} -p udp --sport 6201 -j CT --zone 5
                 iptables -t raw -A {chain} -p udp --dport 6201 -j CT --zone 5"
            ))?;
        }
        for (protocol, port, helper) in [("udp", 6203, "tftp"), ("tcp", 6204, "ftp")] {
            lab.on(A, &format!("iptables -t raw -A PREROUTING -p {protocol} --sport {port} -j CT --helper {helper}"))?;
        }
        let pod = lab.pod(A, 0).namespace();
        let mut plain = Flow::udp(pod, 6202, to)?;
        lab.until_fast(&mut plain)?;
        for mut special in [
            Flow::udp(pod, 6201, to)?,
            Flow::udp(pod, 6203, to)?,
            Flow::tcp(pod, 6204, to)?,
        ] {
            special.ask_times(200)?;
            let permit = lab.permit(A, special.port()?)?;
            ensure!(
                permit.is_none_or(|permit| permit.out_until_ns == 0),
                "{permit:?}"
            );
        }
        let listed = lab.on(A, "conntrack -L -p tcp --orig-port-src 6204")?;
        ensure!(listed.contains("helper=ftp"), "{listed}");
        lab.permit(A, 6202)?.context("the plain flow has none")?;
        lab.until_fast(&mut plain)
    })
}

#[test]
fn a14_the_mark_is_not_on_what_is_not_the_overlays() -> Result<()> {
    twill(Options::default(), |lab| {
        let _server = Server::backend(lab.pod(B, 0), "one")?;
        let host = lab.host(A);
        host.run_lines(
            "iptables -t mangle -A INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT
             iptables -t mangle -A PREROUTING -m mark --mark 0x1000/0x1000 -j ACCEPT
             iptables -t mangle -A INPUT -p tcp --dport 6300 -j ACCEPT",
        )?;
        let _local = Server::start(host, "local", 6300)?;
        let mut local = Flow::tcp(host, 0, SocketAddrV4::new([127, 0, 0, 1].into(), 6300))?;
        let pod = lab.pod(A, 0).namespace();
        let mut tcp = Flow::tcp(pod, 0, Server::address(lab.pod(B, 0)))?;
        lab.make_fast(|| {
            local.ask()?;
            tcp.ask().map(drop)
        })?;
        let counted = |chain: &str, rule: usize| -> Result<u64> {
            let text = lab.on(A, &format!("iptables -t mangle -vxnL {chain} {rule}"))?;
            let count = text.split_whitespace().next().context("no counter")?;
            Ok(count.parse()?)
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
    })
}
