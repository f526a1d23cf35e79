//! The agent on other kernels, and what this machine's own kernel may lack: IPVS, SCTP, VLAN
//! devices, netem.
//!
//! It runs in the guests that `cargo xtask test kernels` boots; `any` on every kernel, `fast`
//! where BPF can encapsulate, `pair` in two guests that virtio-net joins. What the guest found
//! of its kernel is in `TWILL_KERNEL_HAS`.

#![forbid(unsafe_code)]

mod figures;
mod lab;
mod talk;

mod any;
mod fast;
mod pair;
