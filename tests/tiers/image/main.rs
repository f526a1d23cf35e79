//! The image, run as a container runtime runs it: root file system read-only, the capabilities
//! and mounts of the manifests, and nothing else.
//!
//! Needs root and the image: `cargo xtask test image`.

#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    reason = "a harness that cannot do its work fails the test"
)]

mod archive;
mod container;
mod daemon;
mod iptables;
mod names;
