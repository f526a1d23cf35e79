//! What `iptables` prints.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_agent::netfilter::noise;

fuzz_target!(|text: &str| noise::iptables(text));
