//! What tests, benchmarks and the demo stand on.

#![forbid(unsafe_code)]

pub mod packet;
