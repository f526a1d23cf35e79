//! An etcd with a network config, and the store's client asked from inside a namespace.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc;
use twill_agent::store::etcd::{EtcdStore, Options};
use twill_core::backend::vxlan;
use twill_core::config::NetworkConfig;
use twill_core::event::Event;
use twill_core::lease::LeaseAttrs;
use twill_core::leases::{Listing, StoreEvent};
use twill_core::subnet::Subnet;
use twill_core::vtep::{MacAddr, Vni};
use twill_testbed::etcd::{Etcd, PREFIX};
use twill_testbed::netns::Namespace;
use twill_testbed::topology::Underlay;

/// For what takes a moment on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const USUAL: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// One etcd and its underlay.
pub(crate) struct Lab {
    pub(crate) etcd: Etcd,
    pub(crate) underlay: Underlay,
}

impl Lab {
    /// So many members, and this network config.
    pub(crate) fn new(members: u8, config: &str) -> Result<Self> {
        let underlay = Underlay::new()?;
        let etcd = Etcd::start(&underlay, members)?;
        etcd.configure(config)?;
        Ok(Self { etcd, underlay })
    }

    /// A client of all members.
    pub(crate) fn store(&self) -> Result<EtcdStore> {
        Ok(EtcdStore::new(self.options())?)
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(&self.etcd.endpoints(), PREFIX)
    }

    /// Runs `work` on the host of the first member.
    pub(crate) fn run<T: Send>(&self, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
        inside(self.etcd.host(0).namespace(), work)
    }

    pub(crate) fn put(&self, key: &str, value: &str) -> Result<()> {
        let key = format!("{PREFIX}/subnets/{key}");
        self.etcd.ctl(&["put", &key, value]).map(drop)
    }

    pub(crate) fn delete(&self, key: &str) -> Result<()> {
        let key = format!("{PREFIX}/subnets/{key}");
        let deleted = self.etcd.ctl(&["del", &key])?;
        anyhow::ensure!(deleted.trim() == "1", "{key}: {deleted:?}");
        Ok(())
    }

    /// The value of a lease, and the etcd lease that it ends with, 0 for none.
    pub(crate) fn get(&self, key: &str) -> Result<Option<(String, i64)>> {
        let path = format!("{PREFIX}/subnets/{key}");
        let value = self.etcd.leases()?;
        let Some((_, value)) = value.into_iter().find(|(found, _)| found == key) else {
            return Ok(None);
        };
        let text = self.etcd.ctl(&["get", &path, "-w", "json"])?;
        let told: serde_json::Value = serde_json::from_str(&text)?;
        let kv = told["kvs"].get(0).context("gone meanwhile")?;
        Ok(Some((value, kv["lease"].as_i64().unwrap_or(0))))
    }
}

/// Runs `work` inside the namespace, on a runtime of its own.
pub(crate) fn inside<T: Send>(
    namespace: &Namespace,
    work: impl AsyncFnOnce() -> Result<T> + Send,
) -> Result<T> {
    namespace.enter(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(work())
    })?
}

pub(crate) fn config(text: &str) -> Result<NetworkConfig> {
    Ok(NetworkConfig::parse(text)?)
}

pub(crate) fn subnet(text: &str) -> Result<Subnet> {
    Ok(text.parse()?)
}

/// Underlay address of node `n`, of RFC 2544's network.
pub(crate) fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(Ipv4Addr::new(198, 18, 0, 1).to_bits() + n)
}

/// What node `n` publishes.
pub(crate) fn attrs(n: u32) -> Result<LeaseAttrs> {
    let [_, _, high, low] = n.to_be_bytes();
    let mac = MacAddr([2, 0, 0x5e, 0x10, high, low]);
    Ok(vxlan::attrs(address(n), Vni::new(1)?, mac))
}

/// What flanneld writes for node `n`, letter by letter.
pub(crate) fn value(n: u32) -> String {
    let [_, _, high, low] = n.to_be_bytes();
    let address = address(n);
    format!(
        r#"{{"PublicIP":"{address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:5e:10:{high:02x}:{low:02x}"}}}}"#
    )
}

/// What the store says next of leases.
pub(crate) async fn next(events: &mut mpsc::Receiver<Event>) -> Result<StoreEvent> {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await;
        match event.context("no event came")?.context("the watch ended")? {
            Event::Store(StoreEvent::Reached(_) | StoreEvent::Lost(_)) => {}
            Event::Store(said) => return Ok(said),
            other @ (Event::KernelChanged | Event::PodsChanged) => bail!("{other:?}"),
        }
    }
}

/// The subnets of the complete list that is the next event.
pub(crate) async fn listed(events: &mut mpsc::Receiver<Event>) -> Result<Vec<String>> {
    let event = next(events).await?;
    let StoreEvent::Listed(Listing { leases, .. }) = event else {
        bail!("{event:?} is no list");
    };
    let subnets = leases.iter().map(|lease| lease.subnet.to_string());
    Ok(subnets.collect())
}

/// The subnet of the lease that the next event adds.
pub(crate) async fn added(events: &mut mpsc::Receiver<Event>) -> Result<String> {
    let event = next(events).await?;
    let StoreEvent::Put(lease) = event else {
        bail!("{event:?} adds no lease");
    };
    Ok(lease.subnet.to_string())
}

/// The subnet of the lease that the next event removes.
pub(crate) async fn removed(events: &mut mpsc::Receiver<Event>) -> Result<String> {
    let event = next(events).await?;
    let StoreEvent::Gone(subnet) = event else {
        bail!("{event:?} removes no lease");
    };
    Ok(subnet.to_string())
}
