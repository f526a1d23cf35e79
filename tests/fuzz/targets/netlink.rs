//! What the kernel sends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_agent::netlink::noise;

fuzz_target!(|bytes: &[u8]| noise::datagram(bytes));
