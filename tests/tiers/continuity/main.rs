//! Continuity: what traffic between pods notices of starts, crashes, upgrades and accidents.
//!
//! Each test makes one event happen under load and adds a line to the table of what it measured,
//! which `cargo xtask test continuity` prints.

#![forbid(unsafe_code)]

mod adoption;
mod away;
mod beside;
mod crash;
mod cut_off;
mod device;
mod identity;
mod pins;
mod restart;
mod rules;
mod scene;
mod store;
mod switch;
mod table;
mod upgrade;
mod uplink;
