//! Keys of leases in etcd: what is taken is read again as it is written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_core::lease_key::LeaseKey;

fuzz_target!(|text: &str| {
    if let Ok(key) = LeaseKey::parse(text) {
        assert_eq!(LeaseKey::parse(&key.to_string()), Ok(key));
    }
});
