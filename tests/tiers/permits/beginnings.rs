//! The beginning of a connection: its first question is fast already, and what netfilter has
//! accepted of it is taken back with the permits.

use anyhow::{Result, ensure};
use twill_testbed::wait::wait_until;

use crate::lab::{A, B, Lab, Options, SECONDS, twill};
use crate::rules::ONE;
use crate::talk::{Ends, Flow, Server, connect_from};

/// Connections, one after the other.
const CONNECTIONS: u64 = 24;
/// Where a connection is slow that is fast else: one of them may be asked to confirm the way to
/// the other node.
const EXCUSED: u64 = 4;
/// A client that never acknowledges what the server answers, and the server's port.
const MUTE: u16 = 5701;

/// Question and answer: out of the client's node, into the server's, and back.
const WAYS: [(usize, &str); 4] = [
    (A, "from_pod"),
    (B, "from_uplink"),
    (B, "from_pod"),
    (A, "from_uplink"),
];

/// What would make one of them slow: half of a permit, or one that is asked for again at once.
/// (Out of the client half of one makes the handshake's last packet slow, as it must be.)
const SLOW: [(usize, &str, &str); 3] = [
    (B, "from_uplink", "permit_expired"),
    (B, "from_pod", "permit_expired"),
    (A, "from_uplink", "probe"),
];

/// What those ways carried, and what was slow.
fn counts(lab: &Lab) -> Result<[Vec<u64>; 2]> {
    let fast = WAYS
        .iter()
        .map(|(node, program)| lab.count(*node, program, "fast"));
    let slow = SLOW
        .iter()
        .map(|(node, program, reason)| lab.count(*node, program, reason));
    Ok([fast.collect::<Result<_>>()?, slow.collect::<Result<_>>()?])
}

#[test]
fn the_first_question_of_a_connection_and_its_answer_are_fast() -> Result<()> {
    twill(Options::default(), |lab| {
        let _server = Server::backend(lab.pod(B, 0), "one")?;
        for to in [Server::address(lab.pod(B, 0)), ONE] {
            let before = counts(lab)?;
            for _ in 0..CONNECTIONS {
                Flow::tcp(lab.pod(A, 0).namespace(), 0, to)?.ask()?;
            }
            let after = counts(lab)?;
            let more = |which: usize| {
                let both = after[which].iter().zip(&before[which]);
                both.map(|(after, before)| after - before)
                    .collect::<Vec<_>>()
            };
            let (fast, slow) = (more(0), more(1));
            ensure!(
                fast.iter().all(|packets| *packets >= CONNECTIONS - EXCUSED)
                    && slow.iter().all(|packets| *packets <= EXCUSED),
                "{CONNECTIONS} connections to {to}: fast {WAYS:?} {fast:?}, slow {SLOW:?} {slow:?}"
            );
        }
        Ok(())
    })
}

/// How many connections netfilter has accepted the answer of, on the server's node, without any
/// permit yet.
fn accepted(lab: &Lab) -> Result<usize> {
    let notes = lab.notes(B)?;
    let accepted = notes
        .iter()
        .filter(|note| note.mapped_ns != 0 && note.out_until_ns != 0);
    Ok(accepted.count())
}

#[test]
fn a_flush_takes_back_what_no_permit_was_made_of_yet() -> Result<()> {
    twill(Options::default(), |lab| {
        let (client, server) = (lab.pod(A, 0).namespace(), lab.pod(B, 0));
        let _listener = Ends::listen(server)?;
        client.run_lines(&format!(
            "iptables -I OUTPUT -p tcp --sport {MUTE} --tcp-flags SYN,ACK ACK -j DROP"
        ))?;
        let _half_open = connect_from(client, MUTE, Server::address(server))?;
        wait_until("the server's answer is accepted", SECONDS, || {
            accepted(lab).is_ok_and(|count| count == 1)
        })?;
        // Or the answer is repeated, and accepted again.
        let silence = format!("iptables -I OUTPUT -p tcp --dport {MUTE} -j DROP");
        server.namespace().run_lines(&silence)?;
        ensure!(accepted(lab)? == 1, "it went by itself");
        lab.flush()?;
        ensure!(accepted(lab)? == 0, "it is still there");
        Ok(())
    })
}
