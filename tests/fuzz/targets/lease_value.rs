//! Values of leases in etcd: what is taken is read again as it is written, and names a VTEP or
//! says why not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_core::lease::{Lease, LeaseAttrs};

fuzz_target!(|text: &[u8]| {
    let Ok(attrs) = LeaseAttrs::from_json(text) else {
        return;
    };
    if let Ok(written) = serde_json::to_string(&attrs) {
        assert_eq!(LeaseAttrs::from_json(written.as_bytes()).ok(), Some(attrs.clone()));
    }
    if let (Ok(subnet), Ok(network)) = ("10.3.7.0/24".parse(), "10.3.0.0/16".parse()) {
        let lease = Lease {
            subnet,
            attrs,
            ttl_seconds: None,
        };
        let _ = lease.remote_vtep(network);
    }
});
