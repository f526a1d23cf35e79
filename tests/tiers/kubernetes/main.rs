//! A real Kubernetes on this machine: its API server for what Twill stores in it, and whole
//! clusters of kubelets for what pods notice.
//!
//! Needs built binaries and Kubernetes' programs: `cargo xtask test kubernetes`.

#![forbid(unsafe_code)]

mod chart;
mod control_plane;
mod podcidr;
