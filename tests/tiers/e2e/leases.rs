//! The lease server, asked from inside a namespace as a node would.

use std::net::Ipv4Addr;

use anyhow::Result;
use twill_agent::store::server::ServerStore;
use twill_core::backend::vxlan;
use twill_core::lease::LeaseAttrs;
use twill_core::vtep::{MacAddr, Vni};
use twill_testbed::netns::Namespace;
use twill_testbed::stock::Peer;

/// Runs `work` inside the namespace, with a client of the server.
pub(crate) fn ask<T: Send>(
    from: &Namespace,
    url: &str,
    work: impl AsyncFnOnce(ServerStore) -> Result<T> + Send,
) -> Result<T> {
    from.enter(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(async { work(ServerStore::new(url)?).await })
    })?
}

/// What a node with this underlay address and MAC address says of itself.
pub(crate) fn attrs(underlay: Ipv4Addr, mac: [u8; 6]) -> Result<LeaseAttrs> {
    Ok(vxlan::attrs(underlay, Vni::new(1)?, MacAddr(mac)))
}

/// Takes the peer's own subnet for it.
pub(crate) fn register(from: &Namespace, url: &str, peer: &Peer) -> Result<()> {
    let subnet = peer.subnet.to_string().parse()?;
    let attrs = attrs(peer.underlay, peer.vtep_mac)?;
    ask(from, url, async |store| {
        let lease = store.acquire(&attrs, Some(subnet)).await?;
        assert_eq!(lease.subnet, subnet);
        Ok(())
    })
}
