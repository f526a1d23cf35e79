//! A18 and pressure: floods, more flows than entries, many flows at once.

use std::net::SocketAddrV4;
use std::thread;

use anyhow::{Context, Result, ensure};
use twill_testbed::wait::wait_for;

use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run, twill};
use crate::rules::ONE;
use crate::talk::{Flow, Server};

#[test]
fn a18_a_flood_of_flows_that_nobody_answers_takes_no_permits() -> Result<()> {
    twill(Options::flags(&["--max-permits", "1024"]), |lab| {
        let _server = Server::backend(lab.pod(B, 0), "one")?;
        let (pod, to) = (lab.pod(A, 0).namespace(), Server::address(lab.pod(B, 0)));
        let mut udp = Flow::udp(pod, 6400, to)?;
        lab.until_fast(&mut udp)?;
        let since = lab.permit(A, 6400)?.context("no permit")?.since_ns;
        // Nobody listens: the pod's kernel may not even say so, or conntrack would see a reply.
        lab.pod(B, 0)
            .namespace()
            .run_lines("iptables -A INPUT -p udp --dport 9 -j DROP")?;
        let silent = SocketAddrV4::new(*to.ip(), 9);
        for port in 10_000..20_000 {
            Flow::udp(pod, port, silent)?.datagrams()?.send(b"x")?;
            if port % 100 == 0 {
                udp.ask()?;
            }
        }
        let permits = lab.permits(A)?.len();
        ensure!(permits < 10, "{permits} permits for one flow");
        let permit = lab.permit(A, 6400)?.context("the permit is gone")?;
        ensure!(permit.since_ns == since, "made anew: {permit:?}");
        lab.until_fast(&mut udp)
    })
}

#[test]
fn ten_times_more_flows_than_entries_are_all_answered() -> Result<()> {
    let options = Options::flags(&["--max-permits", "64"]);
    run(&[Kind::Twill, Kind::Direct], options, |lab| many(lab)).map(drop)
}

fn many(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let (pod, to) = (lab.pod(A, 0).namespace(), Server::address(lab.pod(B, 0)));
    let mut flows = Vec::new();
    for number in 0..640 {
        let to = if number % 2 == 0 { to } else { ONE };
        flows.push(Flow::udp(pod, 0, to)?);
    }
    for number in 0..100 {
        let to = if number % 2 == 0 { to } else { ONE };
        flows.push(Flow::tcp(pod, 0, to)?);
    }
    for round in 0..5 {
        for (number, flow) in flows.iter_mut().enumerate() {
            let asked = flow.ask();
            asked.with_context(|| format!("flow {number} in round {round}"))?;
        }
    }
    lab.until_fast(&mut flows[0])
}

#[test]
fn thirty_two_udp_flows_at_once_are_all_fast_and_all_answered() -> Result<()> {
    twill(Options::default(), |lab| {
        let _server = Server::backend(lab.pod(B, 0), "one")?;
        let pod = lab.pod(A, 0).namespace();
        let mut flows = Vec::new();
        for port in 6500..6532 {
            flows.push(Flow::udp(pod, port, ONE)?);
        }
        lab.until_fast(&mut flows[0])?;
        thread::scope(|scope| {
            let asking: Vec<_> = flows
                .iter_mut()
                .map(|flow| scope.spawn(|| flow.ask_times(200)))
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
            let permits = lab.permits(A)?;
            let fast = permits.iter().filter(|permit| {
                let port = permit.pod.local_port.to_host();
                (6500..6532).contains(&port) && permit.out_until_ns > 0 && permit.in_until_ns > 0
            });
            Ok((fast.count() == 32).then_some(()))
        })
    })
}
