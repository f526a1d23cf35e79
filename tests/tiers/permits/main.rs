//! Permits under attack and in bad times, against rules as kube-proxy writes them, the stock
//! kernel path beside Twill's. Needs root: `cargo xtask test permits`.

#![forbid(unsafe_code)]

mod absence;
mod conntrack;
mod direct_mode;
mod lane;
mod limits;
mod talk;
