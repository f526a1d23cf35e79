//! How a node gets its subnet, however many others want one at the same time.

use std::net::Ipv4Addr;
use std::time::Duration;

use tracing::{info, warn};
use twill_core::allocate::{Allocation, allocate};
use twill_core::config::NetworkConfig;
use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::lease_key::LeaseKey;
use twill_core::subnet::Subnet;

use super::EtcdStore;
use super::error::Error;
use super::list::Listed;
use super::record::{Held, Record};
use super::session::Session;
use crate::random;

const ATTEMPT: &str = "acquire a lease";

/// The longest pause of a node that was too late, so that those who were, too, drift apart.
const PAUSE: Duration = Duration::from_millis(200);

impl EtcdStore {
    /// Takes a subnet: the one this address holds or has reserved, the previous one, else a
    /// free one. Somebody else who takes it first costs another try, never an error.
    pub async fn acquire(
        &self,
        config: &NetworkConfig,
        attrs: &LeaseAttrs,
        previous: Option<Subnet>,
    ) -> Result<Lease, Error> {
        let session = self.session(ATTEMPT).await?;
        loop {
            let listed = self.list(&session).await?;
            self.remove_misfits(&session, config, &listed, attrs)
                .await?;
            let taken = taken(&listed);
            let allocation = allocate(config, &taken, attrs, previous, random::index)?;
            tell(allocation, attrs, config);
            let held = listed
                .records
                .iter()
                .find(|record| record.key == LeaseKey::ipv4(allocation.subnet()))
                .map(Record::held);
            if let Some(lease) = self
                .claim(&session, allocation.subnet(), held, attrs)
                .await?
            {
                return Ok(lease);
            }
            info!(subnet = %allocation.subnet(), "somebody else was quicker; trying again");
            let pause = PAUSE.mul_f64(random::fraction());
            tokio::time::sleep(pause).await;
        }
    }

    /// Writes the own key, if it is as it was when it was read: `held`, or not there. The
    /// lease, unless somebody else came first.
    pub(super) async fn claim(
        &self,
        session: &Session,
        subnet: Subnet,
        held: Option<Held>,
        attrs: &LeaseAttrs,
    ) -> Result<Option<Lease>, Error> {
        let key = self.keys.lease(LeaseKey::ipv4(subnet));
        let value = super::json(attrs)?;
        let revision = held.map_or(0, |record| record.mod_revision);
        let reserved = held.is_some_and(|held| held.reserved);
        // A reservation stays one: it is the operator's word, and has no end.
        let (etcd_lease, term) = if reserved {
            (0, None)
        } else {
            let (id, term) = session.grant(ATTEMPT, self.options.term).await?;
            (id, Some(term))
        };
        let written = session
            .put_if(ATTEMPT, &key, revision, value, etcd_lease)
            .await;
        if let Ok(Some(revision)) = written {
            self.shared.own.known(subnet, revision);
            return Ok(Some(Lease {
                subnet,
                attrs: attrs.clone(),
                ttl_seconds: term.map(|term| term.as_secs()),
            }));
        }
        // An answer that did not come leaves it open whether the key was written; then the
        // etcd lease must stay, and the next try finds its own address there.
        if written.is_ok() && etcd_lease != 0 {
            self.give_up(session, etcd_lease).await;
        }
        written.map(|_| None)
    }

    async fn give_up(&self, session: &Session, etcd_lease: i64) {
        if let Err(error) = session.revoke(ATTEMPT, etcd_lease).await {
            // It ends by itself, a day later.
            warn!(%error, "an etcd lease that no key belongs to was not ended");
        }
    }

    /// Removes leases that this address holds and that the network config has no place for any
    /// more. Reservations stay: an operator wrote them.
    async fn remove_misfits(
        &self,
        session: &Session,
        config: &NetworkConfig,
        listed: &Listed,
        attrs: &LeaseAttrs,
    ) -> Result<(), Error> {
        let ours = listed
            .records
            .iter()
            .filter(|record| holds(record, attrs) && !fits(config, record));
        for record in ours {
            let subnet = record.key;
            if record.is_reservation() {
                warn!(%subnet, "a reservation for this node does not fit the network config");
                continue;
            }
            info!(
                %subnet, public_ip = %attrs.public_ip,
                "Found lease for current IP, not compatible with current config, deleting"
            );
            let key = self.keys.lease(record.key);
            session
                .delete_if(ATTEMPT, &key, record.mod_revision)
                .await?;
        }
        Ok(())
    }
}

/// Every subnet that is not free, and who has it: nothing else of the leases, of which there may
/// be many. A key whose value cannot be read takes its subnet all the same, and so does a lease
/// of ours with both families, which is not written over.
fn taken(listed: &Listed) -> Vec<Lease> {
    let lease = |subnet, public_ip, ttl_seconds| Lease {
        subnet,
        attrs: LeaseAttrs {
            public_ip,
            public_ipv6: None,
            backend_type: String::new(),
            backend_data: None,
            backend_v6_data: None,
        },
        ttl_seconds,
    };
    let records = listed.records.iter().map(|record| {
        let holder = match record.key.ipv6 {
            None => record.attrs.public_ip,
            Some(_) => Ipv4Addr::UNSPECIFIED,
        };
        lease(record.key.ipv4, holder, record.ttl_seconds())
    });
    let unread = listed.unread.iter().filter_map(|unread| unread.subnet);
    let unread = unread.map(|subnet| lease(subnet, Ipv4Addr::UNSPECIFIED, None));
    records.chain(unread).collect()
}

fn holds(record: &Record, attrs: &LeaseAttrs) -> bool {
    record.attrs.public_ip == attrs.public_ip && !attrs.public_ip.is_unspecified()
}

fn fits(config: &NetworkConfig, record: &Record) -> bool {
    // While there is no IPv6, a key with both families is not compatible (flannel's rule).
    record.key.ipv6.is_none() && config.fits(record.key.ipv4)
}

fn tell(allocation: Allocation, attrs: &LeaseAttrs, config: &NetworkConfig) {
    let public_ip = attrs.public_ip;
    match allocation {
        Allocation::Kept(subnet) => {
            info!(%subnet, %public_ip, "Found lease for current IP, reusing");
        }
        Allocation::Previous(subnet) => info!(%subnet, "Found previously leased subnet, reusing"),
        Allocation::New(subnet) => {
            let (min, max) = (config.subnet_min, config.subnet_max);
            info!(%subnet, "Picking subnet in range {min} ... {max}");
        }
    }
}
