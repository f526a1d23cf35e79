//! A18 and pressure: floods, more flows than entries, many flows at once.

use std::net::SocketAddrV4;
use std::thread;

use anyhow::{Context, Result, ensure};
use twill_testbed::wait::wait_for;
use twill_tests::required;

use crate::lane::{Lane, PERMIT, PORT, SECONDS, SERVICE, Who};
use crate::talk::{Server, Tcp, Udp};

#[test]
fn a18_a_flood_of_flows_that_nobody_answers_takes_no_permits() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lane = Lane::with(PERMIT, &["--max-permits", "1024"])?;
    lane.explained((|| {
        let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
        let mut udp = Udp::connect(lane.pod(0).namespace(), 6400, to)?;
        lane.make_fast(|| udp.ask().map(drop))?;
        let since = lane.permit(0, 6400)?.context("no permit")?.since_ns;
        // Nobody listens: the pod's kernel may not even say so, or conntrack would see a reply.
        lane.pod(1)
            .namespace()
            .run_lines("iptables -A INPUT -p udp --dport 9 -j DROP")?;
        let silent = SocketAddrV4::new(*to.ip(), 9);
        for port in 10_000..20_000 {
            Udp::connect(lane.pod(0).namespace(), port, silent)?
                .socket
                .send(b"x")?;
            if port % 100 == 0 {
                udp.ask()?;
            }
        }
        let permits = lane.permits(0)?.len();
        ensure!(permits < 10, "{permits} permits for one flow");
        let permit = lane.permit(0, 6400)?.context("the permit is gone")?;
        ensure!(permit.since_ns == since, "made anew: {permit:?}");
        lane.make_fast(|| udp.ask().map(drop))
    })())
}

#[test]
fn ten_times_more_flows_than_entries_are_all_answered() -> Result<()> {
    if !required() {
        return Ok(());
    }
    for who in [PERMIT, Who::Twill("direct")] {
        let lane = Lane::with(who, &["--max-permits", "64"])?;
        lane.explained((|| {
            let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
            let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
            let mut flows = Vec::new();
            for number in 0..640 {
                let to = if number % 2 == 0 { to } else { SERVICE };
                flows.push(Udp::connect(lane.pod(0).namespace(), 0, to)?);
            }
            let mut connections = Vec::new();
            for number in 0..100 {
                let to = if number % 2 == 0 { to } else { SERVICE };
                connections.push(Tcp::connect(lane.pod(0).namespace(), 0, to)?);
            }
            for round in 0..5 {
                for (number, flow) in flows.iter_mut().enumerate() {
                    flow.ask()
                        .with_context(|| format!("UDP {number} in round {round}"))?;
                }
                for (number, flow) in connections.iter_mut().enumerate() {
                    flow.ask()
                        .with_context(|| format!("TCP {number} in round {round}"))?;
                }
            }
            lane.make_fast(|| flows[0].ask().map(drop))
        })())?;
    }
    Ok(())
}

#[test]
fn thirty_two_udp_flows_at_once_are_all_fast_and_all_answered() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lane = Lane::new(PERMIT)?;
    lane.explained((|| {
        let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let pod = lane.pod(0).namespace();
        let mut flows = Vec::new();
        for port in 6500..6532 {
            flows.push(Udp::connect(pod, port, SERVICE)?);
        }
        lane.make_fast(|| flows[0].ask().map(drop))?;
        thread::scope(|scope| {
            let asking: Vec<_> = flows
                .iter_mut()
                .map(|flow| scope.spawn(|| (0..200).try_for_each(|_| flow.ask().map(drop))))
                .collect();
            for asked in asking {
                match asked.join() {
                    Ok(asked) => asked?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            anyhow::Ok(())
        })?;
        wait_for("every flow has its permit", SECONDS, || {
            let permits = lane.permits(0)?;
            let fast = permits.iter().filter(|permit| {
                let port = permit.pod.local_port.to_host();
                (6500..6532).contains(&port) && permit.out_until_ns > 0 && permit.in_until_ns > 0
            });
            Ok((fast.count() == 32).then_some(()))
        })
    })())
}
