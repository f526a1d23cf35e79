//! A host that ran flanneld with etcd and runs Twill instead: real etcd, flannel's keys.
//!
//! Needs built binaries and etcd: `cargo xtask test flanneld`.

#![forbid(unsafe_code)]

mod acquire;
mod address;
mod beside;
mod boot;
mod claims;
mod cut_off;
mod device_mtu;
mod docker;
mod emptied;
mod forms;
mod host_gw;
mod keep;
mod lab;
mod member;
mod members;
mod mixed;
mod native_rules;
mod nodes;
mod renewal;
mod same_text;
mod scale;
mod watch;
