//! What a lease server answers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_agent::store::noise;

fuzz_target!(|bytes: &[u8]| noise::server(bytes));
