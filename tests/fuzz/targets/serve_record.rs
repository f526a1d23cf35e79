//! Records of the lease server's file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_agent::serve::noise;

fuzz_target!(|bytes: &[u8]| noise::record(bytes));
