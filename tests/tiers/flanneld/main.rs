//! A host that ran flanneld with etcd and runs Twill instead: real etcd, flannel's keys.
//!
//! Needs built binaries and etcd: `cargo xtask test flanneld`.

#![forbid(unsafe_code)]

mod acquire;
mod keep;
mod lab;
mod members;
mod nodes;
mod scale;
mod watch;
