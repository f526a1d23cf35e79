//! What a node hears of the others' leases.

use anyhow::{Result, ensure};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use twill_agent::store::etcd::EtcdStore;
use twill_core::event::Event;
use twill_testbed::etcd::PREFIX;
use twill_testbed::world::{NODE_A, UPLINK};
use twill_tests::known::Known;
use twill_tests::required;

use super::lab::{Lab, USUAL, added, inside, listed, next, removed, subnet, value};

pub(crate) fn follow(store: EtcdStore) -> (mpsc::Receiver<Event>, CancellationToken) {
    let (sender, events) = mpsc::channel(1024);
    let stop = CancellationToken::new();
    tokio::spawn(store.watch(None, sender, stop.clone()));
    (events, stop)
}

#[test]
fn leases_come_change_and_go() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.put("10.244.1.0-24", &value(1))?;
    lab.put("10.244.2.0-24&fd00:2::-64", &value(2))?;
    lab.run(async || {
        let (mut events, stop) = follow(lab.store()?);
        assert_eq!(
            listed(&mut events).await?,
            ["10.244.1.0/24", "10.244.2.0/24"]
        );
        lab.put("10.244.3.0-24", &value(3))?;
        assert_eq!(added(&mut events).await?, "10.244.3.0/24");
        lab.put("10.244.3.0-24", &value(4))?;
        assert_eq!(added(&mut events).await?, "10.244.3.0/24");
        lab.delete("10.244.1.0-24")?;
        assert_eq!(removed(&mut events).await?, "10.244.1.0/24");
        // Two keys may name one subnet: etcd is asked what is left.
        lab.put("10.244.2.0-24", &value(5))?;
        assert_eq!(added(&mut events).await?, "10.244.2.0/24");
        lab.delete("10.244.2.0-24&fd00:2::-64")?;
        assert_eq!(
            listed(&mut events).await?,
            ["10.244.2.0/24", "10.244.3.0/24"]
        );
        // A lease that ends is removed.
        let granted = lab.etcd.ctl(&["lease", "grant", "4"])?;
        let id = granted.split_whitespace().nth(1).unwrap_or_default();
        let key = format!("{PREFIX}/subnets/10.244.6.0-24");
        lab.etcd
            .ctl(&["put", &key, &value(6), &format!("--lease={id}")])?;
        assert_eq!(added(&mut events).await?, "10.244.6.0/24");
        assert_eq!(removed(&mut events).await?, "10.244.6.0/24");
        stop.cancel();
        Ok(())
    })
}

#[test]
fn rubbish_removes_nobody() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.put("10.244.1.0-24", &value(1))?;
    lab.put("10.244.2.0-24", &value(2))?;
    lab.put("10.244.9.0-24", "rubbish")?;
    lab.put("rubbish", &value(9))?;
    lab.run(async || {
        let (mut events, stop) = follow(lab.store()?);
        assert_eq!(
            listed(&mut events).await?,
            ["10.244.1.0/24", "10.244.2.0/24"]
        );
        lab.put("10.244.2.0-24", "{}")?;
        lab.put("10.244.2.0-24", "")?;
        lab.put("10.244.300.0-24", &value(3))?;
        lab.put("more-rubbish", "x")?;
        lab.delete("more-rubbish")?;
        lab.put("10.244.4.0-24", &value(4))?;
        // Of all these only the last says anything.
        assert_eq!(added(&mut events).await?, "10.244.4.0/24");
        stop.cancel();
        Ok(())
    })
}

/// The node is off the network while etcd starts again, and what happens meanwhile is
/// forgotten by etcd: the difference is found by listing.
#[test]
fn a_compacted_history_is_made_up_for() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(1, USUAL)?;
    let node = lab.underlay.join("a", NODE_A)?;
    lab.put("10.244.1.0-24", &value(1))?;
    lab.put("10.244.2.0-24", &value(2))?;
    let store = lab.store()?;
    let uplink = |state: &str| {
        let command = ["ip", "link", "set", UPLINK, state];
        node.namespace().run(&command).map(drop)
    };
    let lab = &mut lab;
    inside(node.namespace(), async || {
        let (mut events, stop) = follow(store);
        assert_eq!(
            listed(&mut events).await?,
            ["10.244.1.0/24", "10.244.2.0/24"]
        );
        uplink("down")?;
        lab.etcd.kill(0)?;
        lab.etcd.start_again(0)?;
        lab.etcd.wait_healthy()?;
        lab.delete("10.244.1.0-24")?;
        lab.put("10.244.3.0-24", &value(3))?;
        lab.etcd.compact()?;
        uplink("up")?;
        assert_eq!(
            listed(&mut events).await?,
            ["10.244.2.0/24", "10.244.3.0/24"]
        );
        lab.put("10.244.4.0-24", &value(4))?;
        assert_eq!(added(&mut events).await?, "10.244.4.0/24");
        stop.cancel();
        Ok(())
    })
}

/// An etcd that is another one, empty: what was known before stays as long as it could last.
#[test]
fn an_etcd_that_was_replaced_removes_nobody() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(1, USUAL)?;
    lab.put("10.244.1.0-24", &value(1))?;
    let store = lab.store()?;
    let namespace = std::sync::Arc::clone(lab.etcd.host(0).namespace());
    inside(&namespace, async || {
        let (mut events, stop) = follow(store);
        let mut known = Known::nothing()?;
        known.hear(next(&mut events).await?);
        assert_eq!(known.peers(), Some([subnet("10.244.1.0/24")?].into()));
        // Another cluster: its id is made from the addresses and the token of its members.
        let other = lab.etcd.start_anew("another")?;
        ensure!(other, "the cluster is the same");
        lab.etcd.configure(USUAL)?;
        lab.put("10.244.2.0-24", &value(2))?;
        let of_both = [subnet("10.244.1.0/24")?, subnet("10.244.2.0/24")?].into();
        while known.peers().as_ref() != Some(&of_both) {
            known.hear(next(&mut events).await?);
            let first = subnet("10.244.1.0/24")?;
            ensure!(known.peers().is_some_and(|peers| peers.contains(&first)));
        }
        stop.cancel();
        Ok(())
    })
}
