//! The agent's hands on the kernel's BPF: what is pinned, attached and left alone.

mod lab;

mod filters;
mod hooks;
mod pinned;
mod sets;
mod signals;
