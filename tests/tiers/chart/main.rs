//! The chart beside flannel's own at several releases, rendered by a real Helm.
//!
//! Needs Helm and flannel's charts: `cargo xtask test chart`.

#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a harness that cannot do its work fails the test"
)]

mod difference;
mod flags;
mod flannel;
mod former_values;
mod helm;
mod manifest;
mod metrics;
mod options;
mod refused;
