//! All targets in one program, which has to be built and linked once: `TWILL_FUZZ` names the one
//! that is fed.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use twill_agent::noise::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("TWILL_FUZZ").unwrap_or_default();
    let target = TARGETS.into_iter().find(|target| target.name == name);
    target.unwrap_or_else(|| panic!("TWILL_FUZZ={name:?} names no target"))
});

fuzz_target!(|bytes: &[u8]| (TARGET.feed)(bytes));
