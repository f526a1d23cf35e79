//! What the pins say, for tools: needs no agent, and writes nothing.

use std::path::Path;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use serde::Serialize;
use thiserror::Error;
use twill_abi::maps::{COUNTERS_MAP, VTEP_COUNTERS, VTEP_STATE};
use twill_abi::{
    CONFIG_FLAG_ROUTED_BY_PORT, CONFIG_FLAG_STALE, CONFIG_FLAG_TCP_PERMITS, MAPS, MapSpec, Mode,
    VtepState,
};

use super::Sizes;
use super::maps::{Maps, MapsError, monotonic_ns};
use super::operator::{Switch, Word};
use super::permits::Permits;
use super::pins::{self, AttachmentPin, Entries, Misfit, PinError, Pins};
use super::stats::{Counters, CountersError};

/// Why the pins cannot be read.
#[derive(Debug, Error)]
pub enum ReaderError {
    /// Nothing is pinned.
    #[error("no map {map} is pinned in {directory}: twilld has not run with BPF as this instance")]
    Missing {
        /// Its name.
        map: &'static str,
        /// Where it should be.
        directory: String,
    },
    /// What is pinned is not what its name says.
    #[error("the map pinned at {path} is not Twill's: its {misfit}")]
    Misfit {
        /// The pin.
        path: String,
        /// In what it differs.
        misfit: Misfit,
    },
    /// Something about the pins.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Something about a map.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// Something about the counters.
    #[error(transparent)]
    Counters(#[from] CountersError),
}

/// What the settings in the maps say.
#[derive(Clone, Debug, Serialize)]
pub struct PinnedSettings {
    /// Who carries packets, by the agent's word and the operator's.
    pub mode: &'static str,
    /// The operator's override.
    pub operator: Option<&'static str>,
    /// Which flows may skip the host's stack, by the agent's word and the operator's.
    pub fast_path: Word,
    /// Whether TCP flows may have permits.
    pub tcp_permits: bool,
    /// The bit of the packet mark that says "accepted as established".
    pub mark_bit: u32,
    /// How long an acceptance is remembered.
    pub permit_seconds: f64,
    /// Seconds since the agent's last sign of life.
    pub heartbeat_age_seconds: u64,
    /// Whether the agent found that its assumptions do not hold.
    pub stale: bool,
    /// Whether a routing rule tells outer packets apart by source ports, so that all packets to
    /// other nodes are the kernel's.
    pub routed_by_port: bool,
    /// The bits of the packet mark that routing rules look at in outer packets.
    pub rule_marks: u32,
    /// VNI.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Interface index of the uplink.
    pub uplink_ifindex: u32,
    /// Interface index of the vxlan device.
    pub overlay_ifindex: u32,
}

/// The pins of one agent, open for reading.
pub struct Reader {
    maps: Maps,
    switch: Switch,
    counters: Counters,
    permits: Permits,
    attachments: Vec<AttachmentPin>,
}

impl Reader {
    /// Opens the pins, each verified before anything is read through it.
    pub fn open(pins: &Pins) -> Result<Self, ReaderError> {
        let maps = opened(pins, |take| Maps::open(&Sizes::default(), take))?;
        let counters = Counters::open(open(pins, &COUNTERS_MAP)?, open(pins, &VTEP_COUNTERS)?)?;
        Ok(Self {
            maps,
            switch: Switch::open(pins)?,
            counters,
            permits: permits(pins)?,
            attachments: pins.attachments()?,
        })
    }

    /// The maps of the control plane.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The permits.
    pub fn permits(&self) -> &Permits {
        &self.permits
    }

    /// Every attached program that a pin stands for.
    pub fn attachments(&self) -> &[AttachmentPin] {
        &self.attachments
    }

    /// The settings.
    pub fn settings(&self) -> Result<PinnedSettings, ReaderError> {
        let config = self.switch.agent()?;
        let mode = self.switch.mode()?;
        let age_ns = monotonic_ns()?.saturating_sub(config.heartbeat_ns);
        Ok(PinnedSettings {
            mode: mode.holds,
            operator: mode.operator,
            fast_path: self.switch.fast_path()?,
            tcp_permits: config.flags & CONFIG_FLAG_TCP_PERMITS != 0,
            mark_bit: config.mark_bit,
            permit_seconds: Duration::from_nanos(config.permit_ns).as_secs_f64(),
            heartbeat_age_seconds: age_ns / 1_000_000_000,
            stale: config.flags & CONFIG_FLAG_STALE != 0,
            routed_by_port: config.flags & CONFIG_FLAG_ROUTED_BY_PORT != 0,
            rule_marks: config.rule_marks,
            vni: config.vni,
            port: config.vxlan_port.to_host(),
            uplink_ifindex: config.uplink_ifindex,
            overlay_ifindex: config.overlay_ifindex,
        })
    }
}

/// A mode's name for people.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Bpf => "bpf",
        Mode::Kernel | Mode::Unset => "kernel",
    }
}

/// The permits alone, each map verified before anything is read through it or written.
pub fn permits(pins: &Pins) -> Result<Permits, ReaderError> {
    opened(pins, |take| Permits::open(take))
}

/// What the programs found out about VTEPs.
pub struct VtepStates(Array<MapData, VtepState>);

/// Who carries packets to a VTEP, by what the programs found out of the way there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// BPF may.
    Confirmed,
    /// The kernel, whose own packets went another way than BPF's would.
    Disputed,
    /// The kernel, whose own packets were not seen to leave lately.
    Unconfirmed,
}

impl Way {
    /// By this state, at a time of `CLOCK_MONOTONIC`, nanoseconds.
    pub fn of(state: &VtepState, now_ns: u64) -> Self {
        if now_ns < state.disputed_until_ns {
            Self::Disputed
        } else if now_ns < state.outer_permit_until_ns {
            Self::Confirmed
        } else {
            Self::Unconfirmed
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Confirmed => "bpf",
            Self::Disputed => "kernel, by another next hop than bpf's",
            Self::Unconfirmed => "kernel, idle or not seen to leave",
        }
    }
}

impl VtepStates {
    /// Opens the map, verified before anything is read through it.
    pub fn open(pins: &Pins) -> Result<Self, ReaderError> {
        let states = open(pins, &VTEP_STATE)?.try_into();
        Ok(Self(states.map_err(|source| MapsError::Open {
            map: VTEP_STATE.name,
            source,
        })?))
    }

    /// Who carries packets to the VTEP at `index`; nothing where there is no such place.
    pub fn way(&self, index: u32) -> Result<Option<Way>, ReaderError> {
        let now_ns = monotonic_ns()?;
        Ok(self.get(index)?.map(|state| Way::of(&state, now_ns)))
    }

    /// Whether VXLAN came from the VTEP at `index` lately by the uplink's hook: only then a flow
    /// of a pod to it begins direct. Kept in the mode `direct` alone.
    pub fn is_heard(&self, index: u32) -> Result<bool, ReaderError> {
        let now_ns = monotonic_ns()?;
        Ok(self.get(index)?.is_some_and(|state| state.is_heard(now_ns)))
    }

    fn get(&self, index: u32) -> Result<Option<VtepState>, ReaderError> {
        if index >= self.0.len() {
            return Ok(None);
        }
        let state = self.0.get(&index, 0).map_err(|source| MapsError::Read {
            map: VTEP_STATE.name,
            source,
        })?;
        Ok(Some(state))
    }
}

/// What `make` makes of the maps that it takes.
pub(crate) fn opened<T>(
    pins: &Pins,
    make: impl FnOnce(&mut dyn FnMut(&'static str) -> Result<Map, MapsError>) -> Result<T, MapsError>,
) -> Result<T, ReaderError> {
    let mut failure = None;
    let made = make(&mut |name| {
        let spec = MAPS
            .iter()
            .find(|spec| spec.name == name)
            .ok_or(MapsError::Missing(name))?;
        open(pins, spec).map_err(|error| {
            failure = Some(error);
            MapsError::Missing(name)
        })
    });
    match failure {
        Some(failure) => Err(failure),
        None => Ok(made?),
    }
}

/// One map, verified before anything is read through it.
pub(super) fn open(pins: &Pins, spec: &MapSpec) -> Result<Map, ReaderError> {
    open_in(&pins.current(), spec)
}

/// [`open`] in the folder of any ABI version.
pub(super) fn open_in(folder: &Path, spec: &MapSpec) -> Result<Map, ReaderError> {
    let path = folder.join(spec.name);
    let info = pins::info(&path)?.ok_or_else(|| ReaderError::Missing {
        map: spec.name,
        directory: folder.display().to_string(),
    })?;
    pins::verify(&info, spec, Entries::Any).map_err(|misfit| ReaderError::Misfit {
        path: path.display().to_string(),
        misfit,
    })?;
    let opened = |source| MapsError::Open {
        map: spec.name,
        source,
    };
    let data = MapData::from_pin(&path).map_err(opened)?;
    Ok(Map::from_map_data(data).map_err(opened)?)
}
