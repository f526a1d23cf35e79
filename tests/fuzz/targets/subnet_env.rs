//! `subnet.env` as an earlier daemon, or a person, left it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_core::subnet_env::previous_subnet;

fuzz_target!(|text: &str| {
    if let Ok(subnet) = previous_subnet(text) {
        assert!(subnet.network().is_ipv4());
    }
});
