//! What `/proc` says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_agent::files::noise;

fuzz_target!(|text: &str| noise::proc(text));
