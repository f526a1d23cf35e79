//! Which lease store the flags name.

use std::time::Duration;

use anyhow::Result;
use tracing::warn;

use crate::args::{AgentArgs, Secret, StoreChoice};
use crate::store::Store;
use crate::store::etcd::{EtcdStore, Options, Tls};
use crate::store::server::ServerStore;

/// The store.
pub(super) fn store(args: &AgentArgs) -> Result<Store> {
    Ok(match args.store()? {
        StoreChoice::Server(url) => Store::Server(ServerStore::new(url)?),
        StoreChoice::Etcd => {
            if args.etcd.is_plain() {
                // flannel's words.
                warn!("no certificate provided: connecting to etcd with http. This is insecure");
            }
            Store::Etcd(EtcdStore::new(etcd_options(args))?)
        }
    })
}

/// Where it is, for people.
pub(super) fn store_address(args: &AgentArgs) -> Result<String> {
    Ok(match args.store()? {
        StoreChoice::Server(url) => url.to_owned(),
        StoreChoice::Etcd => {
            let etcd = &args.etcd;
            format!("etcd {} {}", etcd.etcd_endpoints, etcd.etcd_prefix)
        }
    })
}

fn etcd_options(args: &AgentArgs) -> Options {
    let etcd = &args.etcd;
    let minutes = u64::try_from(etcd.subnet_lease_renew_margin).unwrap_or_default();
    // Flannel leaves out half of a certificate, and so do we; the flags were warned about.
    let identity = etcd.etcd_certfile.clone().zip(etcd.etcd_keyfile.clone());
    // Neither a name nor a password alone is told to etcd; that was warned about as well.
    let password = etcd.etcd_password.as_ref().map(Secret::reveal);
    let user = etcd.etcd_username.clone().zip(password.map(Into::into));
    Options {
        tls: Tls {
            authority: etcd.etcd_cafile.clone(),
            identity,
        },
        user,
        margin: Duration::from_mins(minutes),
        ..Options::new(&etcd.etcd_endpoints, &etcd.etcd_prefix)
    }
}
