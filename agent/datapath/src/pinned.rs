//! The datapath of a node as its pins hold it, for whoever is not its daemon: one pod after the
//! other, beside a daemon that does the same or without one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use twill_abi::maps::VETH_FLAGS;
use twill_abi::{Config, GUARD_HEARTBEAT_NS, Guard, Program};
use twill_core::instance::InstanceName;

use crate::Sizes;
use crate::attach::filter::Slot;
use crate::attach::tcx::Links;
use crate::attach::{self, AttachBy, Attacher};
use crate::error::DatapathError;
use crate::maps::{Maps, MapsError, monotonic_ns};
use crate::permits::{Permits, VethUse};
use crate::pins::{self, AttachmentKind, PinError, Pins};
use crate::place::{HOOKS, Hook, Interface, Place};
use crate::pod_lock::{PodLock, Presence};
use crate::programs::Programs;
use crate::reader::{self, ReaderError};

/// Why the pins are of no use.
#[derive(Debug, Error)]
pub enum PinnedError {
    /// They cannot be opened, or are not what their names say.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// Something about a program, or about attaching it.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// They cannot be locked.
    #[error("lock the pins in {path}")]
    Lock {
        /// Their folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else is at it all the while.
    #[error("somebody else has held the pins in {path} for {patience:?}")]
    Busy {
        /// Their folder.
        path: PathBuf,
        /// How long that was waited for.
        patience: Duration,
    },
    /// The programs work with other maps.
    #[error("the programs pinned in {path} use other maps than those beside them")]
    OtherMaps {
        /// Their folder.
        path: PathBuf,
    },
}

impl From<PinError> for PinnedError {
    fn from(error: PinError) -> Self {
        Self::Datapath(error.into())
    }
}

impl From<MapsError> for PinnedError {
    fn from(error: MapsError) -> Self {
        Self::Reader(error.into())
    }
}

/// Maps and programs of a node, opened from its pins, and locked: see [`PodLock`].
pub struct Pinned {
    pins: Pins,
    config: Config,
    programs: Programs,
    permits: Permits,
    our_maps: BTreeSet<u32>,
    by: AttachBy,
    slot: Slot,
    links: Links,
    _lock: PodLock,
}

impl Pinned {
    /// Opens what is pinned by this ABI version; `None` where nothing is, or nothing is attached:
    /// the maps may hold nothing yet.
    pub async fn open(
        bpffs: &Path,
        instance: &InstanceName,
        patience: Duration,
    ) -> Result<Option<Self>, PinnedError> {
        let pins = Pins::new(bpffs, instance);
        let path = pins.current();
        let lock = match PodLock::take(&pins, patience).await {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(PinnedError::Busy { path, patience }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PinnedError::Lock { path, source }),
        };
        let maps = reader::opened(&pins, |take| Maps::open(&Sizes::default(), take))?;
        let permits = reader::permits(&pins)?;
        let mut programs = Programs::open(&path)?;
        for hook in HOOKS.iter().filter(|hook| is_pods(hook)) {
            if !uses(&mut programs, hook, &pins)? {
                return Err(PinnedError::OtherMaps { path });
            }
        }
        let Some((by, slot)) = way(&pins)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            config: maps.config()?,
            programs,
            permits,
            our_maps: pins.map_ids()?,
            by,
            slot,
            links: Links::new(),
            _lock: lock,
            pins,
        }))
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        self.pins.folder()
    }

    /// The daemon's settings, as it wrote them last.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether a daemon is there, and has given a sign of life of late: it looks at every pod.
    pub fn has_daemon(&self) -> Result<bool, PinnedError> {
        let age = monotonic_ns()?.saturating_sub(self.config.heartbeat_ns);
        let is_there = Presence::is_announced(&self.pins).map_err(|source| PinnedError::Lock {
            path: self.pins.folder().to_owned(),
            source,
        })?;
        Ok(is_there && age < GUARD_HEARTBEAT_NS)
    }

    /// Whether programs are attached by filters here, which need a qdisc.
    pub fn attaches_by_filter(&self) -> bool {
        self.by == AttachBy::Netlink
    }

    /// Where filters of ours stand.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// TCX programs of others on these interfaces: the name of one by interface index.
    pub fn foreign_programs(
        &self,
        interfaces: &[Interface],
    ) -> Result<BTreeMap<u32, String>, PinnedError> {
        let ours = attach::programs_with(&self.our_maps);
        let mut foreign = BTreeMap::new();
        for interface in interfaces {
            let found = attach::foreign_program(interface, &ours);
            if let Some(name) = found.map_err(DatapathError::from)? {
                foreign.insert(interface.ifindex, name);
            }
        }
        Ok(foreign)
    }

    /// Enters a pod: what its veth may do, and the programs on it that belong there.
    pub async fn add_pod(
        &mut self,
        interface: &Interface,
        pod: VethUse,
    ) -> Result<(), PinnedError> {
        self.permits.add_pod(interface.ifindex, pod)?;
        let mut attacher = Attacher {
            pins: &self.pins,
            by: self.by,
            slot: self.slot,
            our_maps: &self.our_maps,
            before: &[],
            links: &mut self.links,
        };
        let wanted = |hook: &&Hook| is_pods(hook) && belongs(hook.program, pod, &self.config);
        for hook in HOOKS.iter().filter(wanted) {
            let program = self.programs.classifier(hook.program)?;
            attacher.ensure(hook, interface, program).await?;
        }
        Ok(())
    }

    /// Takes pods out of the maps, ends their permits, and detaches what is on their veths.
    pub async fn remove_pods(&mut self, ifindexes: &BTreeSet<u32>) -> Result<(), PinnedError> {
        // First, for without its programs a packet of theirs is nobody's concern.
        for pin in self.pins.attachments()? {
            if is_of_a_pod(&pin.program) && ifindexes.contains(&pin.ifindex) {
                attach::detach(&pin, &self.our_maps).await?;
            }
        }
        Ok(self.permits.remove_pods(ifindexes.iter().copied())?)
    }

    /// Interface indices of everything that was entered as a pod's.
    pub fn pods(&self) -> Result<BTreeSet<u32>, PinnedError> {
        let mut known: BTreeSet<u32> = self.permits.veths()?.into_keys().collect();
        let pins = self.pins.attachments()?.into_iter();
        known.extend(
            pins.filter(|pin| is_of_a_pod(&pin.program))
                .map(|pin| pin.ifindex),
        );
        Ok(known)
    }
}

fn is_pods(hook: &Hook) -> bool {
    hook.place == Place::Pod
}

fn is_of_a_pod(program: &str) -> bool {
    let mut hooks = HOOKS.iter().filter(|hook| is_pods(hook));
    hooks.any(|hook| hook.program.label() == program)
}

/// A pod that is never fast is watched, where the guard wants that.
fn belongs(program: Program, pod: VethUse, config: &Config) -> bool {
    let watches = program == Program::FromPod && config.guard == Guard::Enforce as u32;
    pod == VethUse::Fast || watches
}

/// Whether a program works with the maps that are pinned beside it: an older Twill may have put
/// others there.
fn uses(programs: &mut Programs, hook: &Hook, pins: &Pins) -> Result<bool, PinnedError> {
    let Some(map) = pins::info(&pins.map(VETH_FLAGS.name))? else {
        return Ok(false);
    };
    let inspect = |source| DatapathError::Inspect {
        program: hook.program.label(),
        source,
    };
    let program = programs.classifier(hook.program)?;
    let info = program.info().map_err(inspect)?;
    let used = info.map_ids().map_err(inspect)?;
    Ok(used.is_some_and(|used| used.contains(&map.id())))
}

/// How the daemon has attached its programs: what follows does it the same way. `None` where it has
/// attached none.
fn way(pins: &Pins) -> Result<Option<(AttachBy, Slot)>, PinError> {
    let mut way = None;
    for pin in pins.attachments()? {
        match pin.kind {
            AttachmentKind::Filter { priority, handle } => {
                return Ok(Some((AttachBy::Netlink, Slot { priority, handle })));
            }
            AttachmentKind::Tcx => way = Some((AttachBy::Tcx, Slot::default())),
            AttachmentKind::Xdp(_) => {}
        }
    }
    Ok(way)
}
