//! `net-conf.json`: what is taken is whole.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_core::config::NetworkConfig;

fuzz_target!(|text: &str| {
    if let Ok(config) = NetworkConfig::parse(text) {
        assert!(config.subnet_min <= config.subnet_max);
        assert!(config.network.contains(config.subnet_max.into()));
        assert!(config.subnet_len > config.network.prefix());
    }
});
