//! Files that the agent has left for itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use twill_agent::files::noise;

fuzz_target!(|text: &str| noise::own(text));
