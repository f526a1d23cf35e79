//! What the client makes of it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use twill_agent::store::Ended;
use twill_core::event::Event;
use twill_core::leases::{Listing, Position, StoreEvent};
use twill_core::subnet::Subnet;
use twill_tests::known::Known;

use super::{DAY, PATIENCE, Running, USUAL, attrs};

/// What the store says next of leases.
async fn event(events: &mut mpsc::Receiver<Event>) -> StoreEvent {
    let next = async {
        loop {
            match events.recv().await.unwrap() {
                Event::Store(StoreEvent::Reached(_) | StoreEvent::Lost(_)) => {}
                Event::Store(said) => return said,
                other @ (Event::KernelChanged | Event::PodsChanged) => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.unwrap()
}

fn listed(event: StoreEvent) -> BTreeSet<Subnet> {
    let StoreEvent::Listed(listing) = event else {
        panic!("{event:?} is no list");
    };
    listing.leases.iter().map(|lease| lease.subnet).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_follows_over_restarts_and_a_new_store_removes_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), USUAL).await;
    let address = server.address;
    let store = server.store();
    let first = store.acquire(&attrs(1), None).await.unwrap().subnet;
    let (sender, mut events) = mpsc::channel(16);
    let shutdown = CancellationToken::new();
    let watching = tokio::spawn(store.clone().watch(None, sender, shutdown.clone()));
    assert_eq!(listed(event(&mut events).await), [first].into());
    let second = store.acquire(&attrs(2), None).await.unwrap();
    let StoreEvent::Put(added) = event(&mut events).await else {
        panic!("no lease added");
    };
    assert_eq!((added.subnet, &added.attrs), (second.subnet, &attrs(2)));
    store.release(first, attrs(1).public_ip).await.unwrap();
    assert_eq!(event(&mut events).await, StoreEvent::Gone(first));
    server.stop().await;

    // The same store again: the watch goes on without a word.
    let server = Running::start_at(directory.path(), USUAL, address, DAY).await;
    let third = store.acquire(&attrs(3), None).await.unwrap().subnet;
    let StoreEvent::Put(added) = event(&mut events).await else {
        panic!("no lease added");
    };
    assert_eq!(added.subnet, third);
    server.stop().await;

    // An empty store in its place.
    let mut known = Known::nothing().unwrap();
    let before = Listing {
        position: Position::new("as before"),
        replaced: false,
        leases: vec![second.clone(), added],
        unread: Vec::new(),
    };
    known.hear(StoreEvent::Listed(before));
    let empty = tempfile::tempdir().unwrap();
    let server = Running::start_at(empty.path(), USUAL, address, DAY).await;
    let emptied = event(&mut events).await;
    known.hear(emptied.clone());
    assert_eq!(listed(emptied), [].into());
    assert_eq!(known.peers(), Some([second.subnet, third].into()));
    server.stop().await;
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, watching)
        .await
        .unwrap()
        .unwrap();
    while let Some(event) = events.recv().await {
        let is_of_no_lease = matches!(
            event,
            Event::Store(StoreEvent::Reached(_) | StoreEvent::Lost(_))
        );
        assert!(is_of_no_lease, "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_lease_outlives_its_term_and_others_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let term = Duration::from_secs(2);
    let listen = ([127, 0, 0, 1], 0).into();
    let server = Running::start_at(directory.path(), USUAL, listen, term).await;
    let store = server.store();
    let lease = store.acquire(&attrs(1), None).await.unwrap();
    let kept = lease.subnet;
    let (_publish, published) = watch::channel(attrs(1));
    let shutdown = CancellationToken::new();
    let (keeper, stop) = (store.clone(), shutdown.clone());
    let keeping = tokio::spawn(async move { keeper.keep(lease, published, stop).await });
    let (sender, mut events) = mpsc::channel(64);
    tokio::spawn(store.clone().watch(None, sender, shutdown.clone()));
    assert_eq!(listed(event(&mut events).await), [kept].into());

    // Three leases that nobody keeps, one after the other: three terms at least.
    for n in 2..5 {
        let idle = store.acquire(&attrs(n), None).await.unwrap().subnet;
        let StoreEvent::Put(added) = event(&mut events).await else {
            panic!("no lease added");
        };
        assert_eq!(added.subnet, idle);
        assert_eq!(event(&mut events).await, StoreEvent::Gone(idle));
    }
    shutdown.cancel();
    let ended = tokio::time::timeout(PATIENCE, keeping).await.unwrap();
    assert!(matches!(ended.unwrap(), Ended::Stopped));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_lease_is_published_and_claimed_again_but_not_fought_for() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), USUAL).await;
    let store = server.store();
    let lease = store.acquire(&attrs(1), None).await.unwrap();
    let kept = lease.subnet;
    let (publish, published) = watch::channel(attrs(1));
    let shutdown = CancellationToken::new();
    let (keeper, stop) = (store.clone(), shutdown.clone());
    let keeping = tokio::spawn(async move { keeper.keep(lease, published, stop).await });
    let (sender, mut events) = mpsc::channel(64);
    tokio::spawn(store.clone().watch(None, sender, shutdown.clone()));
    assert_eq!(listed(event(&mut events).await), [kept].into());

    // A new address and MAC are published at once, and nothing is removed meanwhile.
    publish.send(attrs(7)).unwrap();
    let StoreEvent::Put(added) = event(&mut events).await else {
        panic!("no lease added");
    };
    assert_eq!((added.subnet, &added.attrs), (kept, &attrs(7)));
    // Somebody deletes it: it is claimed again at once, not half a day later.
    store.release(kept, attrs(7).public_ip).await.unwrap();
    assert_eq!(event(&mut events).await, StoreEvent::Gone(kept));
    let StoreEvent::Put(added) = event(&mut events).await else {
        panic!("no lease added");
    };
    assert_eq!((added.subnet, &added.attrs), (kept, &attrs(7)));
    // Somebody else gets it: no fight.
    store
        .renew(kept, attrs(7).public_ip, &attrs(9))
        .await
        .unwrap();
    publish.send(attrs(8)).unwrap();
    let ended = tokio::time::timeout(PATIENCE, keeping).await.unwrap();
    let Ended::Lost { subnet, why } = ended.unwrap() else {
        panic!("the lease was not lost");
    };
    assert_eq!(subnet, kept);
    assert!(why.contains("not ours any more"), "{why}");
    shutdown.cancel();
    server.stop().await;
}
