//! Keys and values of etcd, as the store reads them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_agent::store::noise;

fuzz_target!(|bytes: &[u8]| noise::etcd(bytes));
