//! What the programs counted, summed over all CPUs.

use aya::Pod;
use aya::maps::{Map, MapData, MapError, PerCpuArray};
use thiserror::Error;
use twill_abi::maps::{COUNTERS_MAP, VTEP_COUNTERS};
use twill_abi::{Counter, Program, Reason, VtepCounter, counter_index};

/// The counters, open for reading.
pub struct Counters {
    by_reason: PerCpuArray<MapData, Counter>,
    by_vtep: PerCpuArray<MapData, VtepCounter>,
}

/// What one program counted for one reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Count {
    /// The program.
    pub program: Program,
    /// Why.
    pub reason: Reason,
    /// Packets; a GSO packet is one.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

/// A counter that cannot be read.
#[derive(Debug, Error)]
#[error("read the map {map}")]
pub struct CountersError {
    /// Its name.
    pub map: &'static str,
    /// Why not.
    #[source]
    pub source: MapError,
}

impl Counters {
    /// From maps whose shape was verified.
    pub fn open(by_reason: Map, by_vtep: Map) -> Result<Self, CountersError> {
        Ok(Self {
            by_reason: by_reason.try_into().map_err(failed(COUNTERS_MAP.name))?,
            by_vtep: by_vtep.try_into().map_err(failed(VTEP_COUNTERS.name))?,
        })
    }

    /// Every counter, zeroes too, in the order of programs and reasons.
    pub fn all(&self) -> Result<Vec<Count>, CountersError> {
        let mut counts = Vec::new();
        for &program in Program::ALL {
            for &reason in Reason::ALL {
                let values = self
                    .by_reason
                    .get(&counter_index(program, reason), 0)
                    .map_err(failed(COUNTERS_MAP.name))?;
                counts.push(Count {
                    program,
                    reason,
                    packets: sum(&values, |value| value.packets),
                    bytes: sum(&values, |value| value.bytes),
                });
            }
        }
        Ok(counts)
    }

    /// What was counted for the VTEP at `index` of the map `vteps`.
    pub fn vtep(&self, index: u32) -> Result<VtepCounter, CountersError> {
        let values = self
            .by_vtep
            .get(&index, 0)
            .map_err(failed(VTEP_COUNTERS.name))?;
        Ok(VtepCounter {
            encap_packets: sum(&values, |value| value.encap_packets),
            encap_bytes: sum(&values, |value| value.encap_bytes),
            uplink_packets: sum(&values, |value| value.uplink_packets),
            uplink_bytes: sum(&values, |value| value.uplink_bytes),
        })
    }
}

fn sum<T: Pod>(values: &[T], field: impl Fn(&T) -> u64) -> u64 {
    values
        .iter()
        .fold(0, |total, value| total.wrapping_add(field(value)))
}

fn failed(map: &'static str) -> impl Fn(MapError) -> CountersError {
    move |source| CountersError { map, source }
}
