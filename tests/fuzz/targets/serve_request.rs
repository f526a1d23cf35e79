//! What nodes send to the lease server.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_agent::serve::noise;

fuzz_target!(|bytes: &[u8]| noise::request(bytes));
