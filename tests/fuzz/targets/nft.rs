//! What `nft -j` prints.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_agent::netfilter::noise;

fuzz_target!(|bytes: &[u8]| noise::nft(bytes));
