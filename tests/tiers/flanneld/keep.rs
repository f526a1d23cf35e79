//! The node's own lease over time.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use twill_agent::store::Ended;
use twill_agent::store::etcd::{EtcdStore, Options};
use twill_core::event::Event;
use twill_core::lease::LeaseAttrs;
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL, attrs, config, subnet, value};

const KEY: &str = "10.244.7.0-24";

/// A node's own lease, kept and watched as the agent does it.
struct Node {
    attrs: watch::Sender<LeaseAttrs>,
    keeper: JoinHandle<Ended>,
    stop: CancellationToken,
    _events: mpsc::Receiver<Event>,
}

impl Node {
    /// Node 1 with 10.244.7.0/24.
    async fn start(store: EtcdStore) -> Result<Self> {
        let config = config(USUAL)?;
        let mine = attrs(1)?;
        let previous = Some(subnet("10.244.7.0/24")?);
        let lease = store.acquire(&config, &mine, previous).await?;
        let (sender, events) = mpsc::channel(1024);
        let (attrs, published) = watch::channel(mine);
        let stop = CancellationToken::new();
        tokio::spawn(store.clone().watch(None, sender, stop.clone()));
        let keeper = {
            let stop = stop.clone();
            tokio::spawn(async move { store.keep(lease, published, stop).await })
        };
        Ok(Self {
            attrs,
            keeper,
            stop,
            _events: events,
        })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.keeper).await??;
        ensure!(matches!(ended, Ended::Stopped), "{ended:?}");
        Ok(())
    }
}

/// Waits until the own key is so, while the node goes on.
async fn until(
    lab: &Lab,
    what: &str,
    so: impl Fn(Option<&(String, i64)>) -> bool,
) -> Result<Option<(String, i64)>> {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = lab.get(KEY)?;
        if so(found.as_ref()) {
            return Ok(found);
        }
        ensure!(tokio::time::Instant::now() < end, "not {what}: {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_lease_is_renewed_before_its_end() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.run(async || {
        let options = Options {
            term: Duration::from_secs(8),
            margin: Duration::from_secs(6),
            ..lab.options()
        };
        let node = Node::start(EtcdStore::new(options)?).await?;
        let (_, first) = lab.get(KEY)?.context("no lease")?;
        let renewed = until(&lab, "renewed", |found| {
            found.is_some_and(|(_, lease)| *lease != first)
        });
        let (text, second) = renewed.await?.context("no lease")?;
        assert_eq!(text, value(1));
        until(&lab, "renewed again", |found| {
            found.is_some_and(|(_, lease)| *lease != second)
        })
        .await?;
        node.stop().await
    })
}

#[test]
fn a_lease_that_was_revoked_is_taken_again() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.run(async || {
        let node = Node::start(lab.store()?).await?;
        for _ in 0..2 {
            let (_, lease) = lab.get(KEY)?.context("no lease")?;
            lab.etcd.ctl(&["lease", "revoke", &format!("{lease:x}")])?;
            let again = until(&lab, "taken again", |found| found.is_some()).await?;
            assert_eq!(again.map(|(text, _)| text), Some(value(1)));
        }
        // Removed altogether, and while etcd was down.
        lab.delete(KEY)?;
        until(&lab, "taken again", |found| found.is_some()).await?;
        node.stop().await
    })
}

#[test]
fn a_lease_that_another_node_has_is_not_fought_for() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.run(async || {
        let node = Node::start(lab.store()?).await?;
        lab.put(KEY, &value(2))?;
        let ended = tokio::time::timeout(PATIENCE, node.keeper).await??;
        let Ended::Lost { subnet, why } = ended else {
            anyhow::bail!("{ended:?}");
        };
        assert_eq!(subnet.to_string(), "10.244.7.0/24");
        ensure!(why.contains("198.18.0.3"), "{why}");
        assert_eq!(lab.get(KEY)?, Some((value(2), 0)));
        Ok(())
    })
}

#[test]
fn a_subnet_that_overlaps_another_s_lease_is_not_taken_again() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.run(async || {
        let node = Node::start(lab.store()?).await?;
        lab.put("10.244.7.128-25", &value(2))?;
        lab.delete(KEY)?;
        let ended = tokio::time::timeout(PATIENCE, node.keeper).await??;
        ensure!(matches!(ended, Ended::Lost { .. }), "{ended:?}");
        assert_eq!(lab.get(KEY)?, None);
        Ok(())
    })
}

#[test]
fn what_the_node_has_to_say_is_published() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.run(async || {
        let node = Node::start(lab.store()?).await?;
        // A new device has another address, and a host may get another one too.
        node.attrs.send(attrs(300)?)?;
        let is = |n: u32| {
            move |found: Option<&(String, i64)>| found.is_some_and(|(text, _)| *text == value(n))
        };
        until(&lab, "published", is(300)).await?;
        node.attrs.send(attrs(1)?)?;
        until(&lab, "published", is(1)).await?;

        // A reservation is an operator's word: it becomes whole, and keeps having no end.
        lab.put(KEY, r#"{"PublicIP":"198.18.0.2"}"#)?;
        let found = until(&lab, "published", is(1)).await?;
        assert_eq!(found, Some((value(1), 0)));

        // Rubbish is nobody's, and no operator's word: the lease has an end again.
        lab.put(KEY, "rubbish")?;
        let found = until(&lab, "published", is(1)).await?;
        ensure!(found.is_some_and(|(_, lease)| lease != 0), "no end");

        // Another daemon of this node: said, and not fought.
        let other = value(1).replace("02:00:5e", "06:00:5e");
        lab.put(KEY, &other)?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(lab.get(KEY)?, Some((other, 0)));
        node.stop().await
    })
}
