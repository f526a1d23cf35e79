//! Counters: the only place that adds to one.

use twill_abi::{Program, Reason, counter_index};

use crate::maps;

/// Counts a packet of `len` bytes under a reason.
#[inline(always)]
pub fn packet(program: Program, reason: Reason, len: u32) {
    if let Some(counter) = maps::counter(counter_index(program, reason)) {
        counter.packets += 1;
        counter.bytes += u64::from(len);
    }
}

/// Counts a packet that BPF encapsulated to a VTEP.
#[inline(always)]
pub fn encap(vtep: u32, len: u32) {
    if let Some(counter) = maps::vtep_counter(vtep) {
        counter.encap_packets += 1;
        counter.encap_bytes += u64::from(len);
    }
}

/// Counts a trusted packet from a VTEP.
#[inline(always)]
pub fn from_vtep(vtep: u32, len: u32) {
    if let Some(counter) = maps::vtep_counter(vtep) {
        counter.uplink_packets += 1;
        counter.uplink_bytes += u64::from(len);
    }
}
