//! One key of etcd and its value, read as if an enemy had written them. Pure.

use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::lease_key::LeaseKey;

use super::keys::Keys;
use super::options::LEASE_TERM;
use crate::store::unread::UnreadLease;

/// How much of an unreadable value is shown, in characters.
const SHOWN: usize = 200;

/// A lease as etcd has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) key: LeaseKey,
    pub(super) attrs: LeaseAttrs,
    /// The etcd lease that the key ends with; 0 for a reservation, which has no end.
    pub(super) etcd_lease: i64,
    /// When the key was last written.
    pub(super) mod_revision: i64,
}

/// What a write finds at its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// When the key was last written.
    pub(super) mod_revision: i64,
    /// Whether it is a reservation, and stays one. Rubbish is none, with an etcd lease or not.
    pub(super) reserved: bool,
}

impl Record {
    /// Reads a key and its value.
    pub(super) fn read(
        keys: &Keys,
        key: &[u8],
        value: &[u8],
        etcd_lease: i64,
        mod_revision: i64,
    ) -> Result<Self, UnreadLease> {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(SHOWN).collect();
        let key = keys.parse(key).map_err(|why| UnreadLease {
            subnet: None,
            value: shown(key),
            why,
        })?;
        let attrs = LeaseAttrs::from_json(value).map_err(|error| UnreadLease {
            subnet: Some(key.ipv4),
            value: shown(value),
            why: error.to_string(),
        })?;
        Ok(Self {
            key,
            attrs,
            etcd_lease,
            mod_revision,
        })
    }

    /// Whether an operator wrote it to fix a node's subnet: it belongs to no etcd lease.
    pub(super) fn is_reservation(&self) -> bool {
        self.etcd_lease == 0
    }

    /// As a write finds it.
    pub(super) fn held(&self) -> Held {
        Held {
            mod_revision: self.mod_revision,
            reserved: self.is_reservation(),
        }
    }

    /// As a lease. When it ends is not asked for: etcd tells when it has, and a call for each
    /// lease is what makes flannel slow. It is the longest that it can be.
    pub(super) fn into_lease(self) -> Lease {
        Lease {
            subnet: self.key.ipv4,
            ttl_seconds: self.ttl_seconds(),
            attrs: self.attrs,
        }
    }

    /// How long the lease may last.
    pub(super) fn ttl_seconds(&self) -> Option<u64> {
        (!self.is_reservation()).then_some(LEASE_TERM.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Result<Record, UnreadLease> {
        let keys = Keys::new("/n").unwrap();
        Record::read(&keys, key.as_bytes(), value.as_bytes(), 7, 9)
    }

    #[test]
    fn what_flannel_writes_is_read() {
        // As flannel's own tests and a node with both families write it.
        let value = r#"{"PublicIP":"1.2.3.4","PublicIPv6":"2001:db8::4","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"},"BackendV6Data":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e4"}}"#;
        let record = read("/n/subnets/10.3.7.0-24&fd00:7::-64", value).unwrap();
        let lease = record.into_lease();
        assert_eq!(lease.subnet.to_string(), "10.3.7.0/24");
        assert_eq!(serde_json::to_string(&lease.attrs).unwrap(), value);
        assert!(lease.ttl_seconds.is_some());
        let network = "10.3.0.0/16".parse().unwrap();
        let text = r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan"}}"#;
        let config = twill_core::config::NetworkConfig::parse(text).unwrap();
        assert!(config.backend.peer(&lease, network).is_ok());
    }

    #[test]
    fn a_reservation_has_no_end() {
        let keys = Keys::new("/n").unwrap();
        let value = br#"{"PublicIP":"1.2.3.4"}"#;
        let record = Record::read(&keys, b"/n/subnets/10.3.7.0-24", value, 0, 9).unwrap();
        assert_eq!(record.into_lease().ttl_seconds, None);
    }

    #[test]
    fn rubbish_names_its_subnet_where_that_can_be_read() {
        let unread = read("/n/subnets/10.3.7.0-24", "rubbish").unwrap_err();
        assert_eq!(unread.subnet, Some("10.3.7.0/24".parse().unwrap()));
        let unread = read("/n/subnets/ten", r#"{"PublicIP":"1.2.3.4"}"#).unwrap_err();
        assert_eq!(unread.subnet, None);
        assert!(unread.value.contains("ten"));
    }
}
