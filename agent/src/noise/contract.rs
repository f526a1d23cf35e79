//! What flannel and its users write: texts that `twill-core` reads.

use twill_core::config::NetworkConfig;
use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::lease_key::LeaseKey;
use twill_core::subnet_env::previous_subnet;

/// `net-conf.json`: what is taken is whole.
pub(super) fn config(text: &str) {
    if let Ok(config) = NetworkConfig::parse(text) {
        assert!(config.subnet_min <= config.subnet_max);
        assert!(config.network.contains(config.subnet_max.into()));
        assert!(config.subnet_len > config.network.prefix());
    }
}

/// Keys of leases in etcd: what is taken is read again as it is written.
pub(super) fn lease_key(text: &str) {
    if let Ok(key) = LeaseKey::parse(text) {
        assert_eq!(LeaseKey::parse(&key.to_string()), Ok(key));
    }
}

/// Values of leases in etcd: what is taken is read again as it is written, and names a peer or
/// says why not.
pub(super) fn lease_value(text: &[u8]) {
    let Ok(attrs) = LeaseAttrs::from_json(text) else {
        return;
    };
    if let Ok(written) = serde_json::to_string(&attrs) {
        let again = LeaseAttrs::from_json(written.as_bytes()).ok();
        assert_eq!(again, Some(attrs.clone()));
    }
    if let (Ok(subnet), Ok(network)) = ("10.3.7.0/24".parse(), "10.3.0.0/16".parse()) {
        let lease = Lease {
            subnet,
            attrs,
            ttl_seconds: None,
        };
        for backend in [r#"{"Type":"vxlan"}"#, r#"{"Type":"host-gw"}"#] {
            let text = format!(r#"{{"Network":"10.3.0.0/16","Backend":{backend}}}"#);
            if let Ok(config) = NetworkConfig::parse(&text) {
                drop(config.backend.peer(&lease, network));
            }
        }
    }
}

/// `subnet.env` as an earlier daemon, or a person, left it.
pub(super) fn subnet_env(text: &str) {
    if let Ok(subnet) = previous_subnet(text) {
        assert!(subnet.network().is_ipv4());
    }
}
