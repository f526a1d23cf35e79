//! A8: what netfilter made of one packet is not learned for another. A connected raw socket
//! gives all its packets one hash, whatever is in them; notes must not go by it, and a note that
//! another pod has made in a flow's name binds nothing (the tier prog-run has the race packet by
//! packet, in `permits/learn_out.rs`).

use anyhow::{Context as _, Result, ensure};
use twill_testbed::forge::RawIp;
use twill_testbed::packet::{Ipv4, Udp};

use crate::lab::{A, B, Lab, Options, both, twill};
use crate::rules::ONE;
use crate::talk::{Flow, Server};

const TUPLES: u16 = 200;
const VICTIM: u16 = 5555;
const FORGED: u64 = 500;

#[test]
fn a08_notes_do_not_go_by_the_hash_of_a_socket() -> Result<()> {
    twill(Options::default(), |lab| {
        let (from, to) = (lab.pod(A, 1), lab.pod(B, 0));
        let raw = RawIp::connected(from.namespace(), to.address())?;
        for port in 0..TUPLES {
            let packet = Ipv4::new(from.address(), to.address());
            raw.send(to.address(), &packet.udp(&Udp::new(20_000 + port, 9), b"x"))?;
        }
        let ports = 20_000..20_000 + TUPLES;
        let noted = lab.notes(A)?;
        let noted = noted
            .iter()
            .filter(|note| ports.contains(&note.tuple.local_port.to_host()));
        let noted = noted.count();
        // Two of 200 may share one of 2^32 hashes; hardly more.
        ensure!(noted + 2 >= usize::from(TUPLES), "{noted} notes");
        Ok(())
    })
}

/// The hostile pod sends the victim's own tuple between every two of its questions.
fn own_tuple_forged(lab: &Lab) -> Result<()> {
    let (victim, hostile) = (lab.pod(A, 0), lab.pod(A, 1));
    let _one = Server::backend(lab.pod(B, 0), "one")?;
    let mut flow = Flow::udp(victim.namespace(), VICTIM, ONE)?;
    lab.until_fast(&mut flow)?;
    let raw = RawIp::open(hostile.namespace())?;
    let forged = Ipv4::new(victim.address(), *ONE.ip()).udp(&Udp::new(VICTIM, ONE.port()), b"0");
    let bound = lab.permit(A, VICTIM)?.map(|permit| permit.ifindex);
    let foreign = lab.count(A, "from_pod", "foreign_veth")?;
    for question in 0..FORGED {
        raw.send(*ONE.ip(), &forged)?;
        let answer = flow.ask().with_context(|| format!("question {question}"))?;
        ensure!(answer.name == "one", "{answer:?}");
    }
    // The forged ones met the live permit, and none of the victim's own did as a stranger.
    let foreign = lab.count(A, "from_pod", "foreign_veth")? - foreign;
    let met = (FORGED / 2..=FORGED).contains(&foreign);
    ensure!(
        !lab.has_programs() || met,
        "{foreign} were of a foreign veth"
    );
    let now = lab.permit(A, VICTIM)?.map(|permit| permit.ifindex);
    ensure!(
        now == bound,
        "the permit went from veth {bound:?} to {now:?}"
    );
    lab.until_fast(&mut flow)
}

#[test]
fn a08_a_flow_whose_tuple_another_pod_sends_stays_its_own() -> Result<()> {
    both(Options::default(), |lab| own_tuple_forged(lab))
}
