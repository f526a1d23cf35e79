//! Fifty thousand peers: nothing may grow with their square.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::backend::Wanted;
use crate::desired::Desired;
use crate::peers::Peers;
use crate::plan::tests::world::{apply, desired, fresh, parse};
use crate::plan::{NOBODY, plan, plan_one};
use crate::subnet::Subnet;
use crate::vtep::{MacAddr, RemoteVtep};

const PEERS: u32 = 50_000;

fn peer(n: u32) -> (Subnet, RemoteVtep) {
    let [_, a, b, c] = n.to_be_bytes();
    let first = Ipv4Addr::from(0x0a00_0000 + (n << 8));
    let vtep = RemoteVtep {
        underlay: IpAddr::from([172, 16 + a, b, c]),
        mac: MacAddr([2, 0, 0, a, b, c]),
    };
    (parse(&format!("{first}/24")), vtep)
}

fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = what();
    (result, start.elapsed())
}

#[test]
fn fifty_thousand_peers_are_planned_at_once() {
    let wanted = Desired {
        network: parse("10.0.0.0/8"),
        ..desired(&(0..PEERS).map(peer).collect::<Vec<_>>())
    };
    let mut observed = fresh(PEERS, PEERS);
    let (first, first_time) = timed(|| plan(&observed, &wanted));
    assert_eq!(first.ops.len(), 3 + 6 * PEERS as usize);
    apply(&mut observed, &first.ops);

    let (again, again_time) = timed(|| plan(&observed, &wanted));
    assert_eq!(again.ops, []);

    let nobody = Desired {
        peers: [].into(),
        ..wanted.clone()
    };
    let (removal, removal_time) = timed(|| plan(&observed, &nobody));
    assert_eq!(removal.ops.len(), 6 * PEERS as usize);

    let mut peers = Peers::default();
    for (&subnet, &peer) in &wanted.peers {
        peers.insert(subnet, peer);
    }
    let (gone, _) = peer(PEERS / 2);
    peers.remove(gone);
    let backend = &wanted.backend;
    let wanted = Wanted {
        network: wanted.network,
        complete: true,
        peers: &peers,
        on_link: &NOBODY,
    };
    let (single, single_time) = timed(|| {
        let entries = backend.entries(&observed.kernel, wanted);
        plan_one(&observed, wanted, entries, gone)
    });
    assert_eq!(single.ops.len(), 6);

    // A square would take minutes; the margin is for a busy machine.
    let times = [first_time, again_time, removal_time];
    assert!(
        times.iter().all(|time| *time < Duration::from_secs(10)),
        "{times:?}"
    );
    assert!(
        single_time * 100 < first_time,
        "{single_time:?} of {first_time:?}"
    );
}
