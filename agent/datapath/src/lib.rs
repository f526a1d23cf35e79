//! The BPF programs and maps: loaded, pinned, attached, filled and looked after.
//!
//! Nothing here carries a packet, and nothing here is needed for one: what is pinned
//! goes on without the agent, and without BPF the kernel's vxlan device carries all.

#![forbid(unsafe_code)]

pub mod attach;
pub mod bpffs;
pub mod crash;
pub mod error;
pub mod exclusions;
pub mod guard;
pub mod maps;
pub mod object;
pub mod operator;
pub mod permit_state;
pub mod permits;
pub mod pinned;
pub mod pins;
pub mod place;
pub mod pod_lock;
pub mod probe;
pub mod programs;
pub mod reader;
pub mod settings;
pub mod source_ports;
pub mod stats;
pub mod strangers;

mod load;
mod undisturbed;
mod vtep_entry;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use aya::maps::Map;
use ipnetwork::Ipv4Network;
use tracing::{debug, warn};
use twill_abi::{Config, Mode, Program};
use twill_core::chain::chain;
use twill_core::instance::InstanceName;
use twill_core::observed::ObservedMaps;
use twill_core::plan::MapOp;

use attach::filter::Slot;
use attach::tcx::Links;
use attach::{AttachBy, Attacher, Attachment};
use exclusions::Exclusions;
use guard::{GuardOptions, GuardPlace, Post};
use maps::Maps;
use permits::{Permits, VethUse};
use pins::{PinError, Pins};
use place::{HOOKS, Hook, Interface, Interfaces, Place};
use pod_lock::Presence;
use programs::Programs;
use settings::Settings;

pub use error::DatapathError;

/// How the datapath is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the BPF file system is.
    pub bpffs: PathBuf,
    /// Whose pins.
    pub instance: InstanceName,
    /// Sizes of the maps.
    pub sizes: Sizes,
    /// Ways of attaching.
    pub attach_by: AttachBy,
    /// Place of tc filters.
    pub slot: Slot,
    /// What becomes of strangers' VXLAN.
    pub guard: GuardOptions,
    /// Addresses of which no flow may be fast.
    pub exclude: Vec<Ipv4Network>,
}

/// Sizes of the maps, in entries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// VTEPs: other nodes.
    pub vteps: u32,
    /// Subnets of other nodes.
    pub routes: u32,
    /// Flows.
    pub permits: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        use twill_abi::maps::{OVERLAY_ROUTES, PERMITS_POD, VTEPS};
        Self {
            vteps: VTEPS.max_entries,
            routes: OVERLAY_ROUTES.max_entries,
            permits: PERMITS_POD.max_entries,
        }
    }
}

/// The programs and maps of one agent, in the kernel.
pub struct Datapath {
    options: Options,
    pins: Pins,
    programs: Programs,
    maps: Maps,
    permits: Permits,
    exclusions: Exclusions,
    /// Identities of all maps that only our programs use, earlier ones included.
    our_maps: BTreeSet<u32>,
    /// Names and identities of the maps in use.
    map_ids: Vec<(&'static str, u32)>,
    links: Links,
    /// Held open so that they can be pinned again.
    _held: Vec<Map>,
    fresh: bool,
    vni: u32,
    common_prefix: u8,
    attached: Vec<Attachment>,
    post: Post,
    presence: Option<Presence>,
}

impl Datapath {
    /// Loads the programs, with the pinned maps if they fit. Attaches nothing: what was
    /// attached before goes on with its own programs and maps until [`Self::attach`].
    pub fn open(options: &Options, vni: u32, common_prefix: u8) -> Result<Self, DatapathError> {
        Self::open_object(object::OBJECT, options, vni, common_prefix)
    }

    /// As [`Self::open`], with another object than the one in the binary.
    pub fn open_object(
        object: &[u8],
        options: &Options,
        vni: u32,
        common_prefix: u8,
    ) -> Result<Self, DatapathError> {
        let specs = object::check(object)?;
        bpffs::ensure(&options.bpffs)?;
        let pins = Pins::new(&options.bpffs, &options.instance);
        pins.make(&pins.current())?;
        let mut our_maps = pins.map_ids()?;
        pins.discard_next()?;
        let loaded =
            load::load(object, &specs, &pins, options, common_prefix).inspect_err(|_| {
                // What was begun is in nobody's use; the next start removes it too.
                if let Err(error) = pins.discard_next() {
                    tracing::debug!(%error, "discard the new maps");
                }
            })?;
        our_maps.extend(loaded.map_ids.iter().map(|&(_, id)| id));
        Ok(Self {
            options: options.clone(),
            pins,
            programs: loaded.programs,
            maps: loaded.maps,
            permits: loaded.permits,
            exclusions: loaded.exclusions,
            our_maps,
            map_ids: loaded.map_ids,
            links: Links::new(),
            _held: loaded.held,
            fresh: loaded.fresh,
            vni,
            common_prefix,
            attached: Vec::new(),
            post: Post::default(),
            presence: None,
        })
    }

    /// Reads the maps.
    pub fn observe(&self) -> Result<ObservedMaps, DatapathError> {
        Ok(self.maps.observe(self.vni)?)
    }

    /// Writes one entry.
    pub fn apply(&mut self, op: &MapOp) -> Result<(), DatapathError> {
        Ok(self.maps.apply(op, self.vni, self.common_prefix)?)
    }

    /// The agent's settings as the programs read them; zero where no agent has written any.
    pub fn told(&self) -> Result<Config, DatapathError> {
        Ok(self.maps.config()?)
    }

    /// Writes the agent's settings, with a new sign of life.
    pub fn write_settings(&mut self, settings: &Settings) -> Result<(), DatapathError> {
        let begins = self.exclusions.write()?;
        let excludes = self.exclusions.any();
        self.maps
            .write_settings(settings, excludes, self.post.is_at_tc())?;
        if begins && excludes {
            // Now that none is made any more.
            let forbid = |tuple: &_, permit: &_| self.exclusions.forbid(tuple, permit);
            self.permits.end(forbid)?;
        }
        Ok(())
    }

    /// Tells the programs which veths are pods', and which of them are never fast; ends the
    /// permits of every veth that is not a fast pod's any more.
    pub fn set_pods(&mut self, pods: &BTreeMap<u32, VethUse>) -> Result<(), DatapathError> {
        Ok(self.permits.set_pods(pods)?)
    }

    /// The veths of pods that the maps know, whoever entered them.
    pub fn pods(&self) -> Result<BTreeSet<u32>, DatapathError> {
        Ok(self.permits.veths()?.into_keys().collect())
    }

    /// Programs of others on the TCX hooks of these interfaces, by interface index: the name of
    /// one, where there is one. An interface that could not be looked at is left out.
    pub fn foreign_programs(&self, interfaces: &[Interface]) -> BTreeMap<u32, Option<String>> {
        let ours = attach::programs_with(&self.our_maps);
        let mut foreign = BTreeMap::new();
        for interface in interfaces {
            match attach::foreign_program(interface, &ours) {
                Ok(name) => drop(foreign.insert(interface.ifindex, name)),
                Err(error) => {
                    debug!(interface = interface.name, error = %chain(&error), "not looked at");
                }
            }
        }
        foreign
    }

    /// The mode that the operator asked for, if any.
    pub fn operator_mode(&self) -> Result<Option<Mode>, DatapathError> {
        Ok(self.maps.operator_mode()?)
    }

    /// Makes sure that every program is attached where it belongs, exactly once, and that
    /// nothing of ours is attached anywhere else. To be called again and again; and for
    /// the first time only when the maps are filled.
    pub async fn attach(&mut self, interfaces: &Interfaces) -> Result<(), DatapathError> {
        self.keep_pins()?;
        if self.presence.is_none() {
            self.presence = Presence::announce(&self.pins);
        }
        let guard_pin = self.post.at_xdp(
            self.options.guard,
            &mut self.programs,
            &self.pins,
            interfaces,
            &mut self.links,
        );
        let mut attacher = Attacher {
            pins: &self.pins,
            by: self.options.attach_by,
            slot: self.options.slot,
            our_maps: &self.our_maps,
            before: &self.attached,
            links: &mut self.links,
        };
        let mut attached = Vec::new();
        let mut wanted: Vec<PathBuf> = guard_pin.iter().cloned().collect();
        let mut unseen = BTreeSet::new();
        for hook in HOOKS {
            let program = self.programs.classifier(hook.program)?;
            for interface in interfaces.at(hook.place) {
                match attacher.ensure(hook, interface, program).await {
                    Ok((attachment, pin)) => {
                        crash::point("attach");
                        attached.push(attachment);
                        wanted.push(pin);
                    }
                    // A pod may go at any moment, and one that stays goes the slow way.
                    Err(error) if hook.place == Place::Pod => {
                        debug!(interface = interface.name, error = %chain(&error), "pod not attached");
                        if error.says_nothing() {
                            unseen.insert(interface.ifindex);
                            attached.extend(before(&self.attached, hook, interface));
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            if hook.program != Program::FromPod {
                continue;
            }
            // Beside somebody else's qdiscs and filters a TCX link disturbs nobody. Where there is
            // none, these are the veths on which a filter does not either.
            attacher.by = if self.options.attach_by.is_by_filter() {
                AttachBy::Netlink
            } else {
                AttachBy::Tcx
            };
            for interface in &interfaces.watched {
                match attacher.ensure(hook, interface, program).await {
                    Ok((attachment, pin)) => {
                        attached.push(attachment);
                        wanted.push(pin);
                    }
                    Err(error) => {
                        debug!(interface = interface.name, error = %chain(&error), "pod not watched");
                    }
                }
            }
            attacher.by = self.options.attach_by;
        }
        self.maps.set_guard_at_tc(guard_pin.is_none())?;
        if guard_pin.is_some() {
            attached.push(xdp_attachment(&interfaces.uplink, &self.post));
        }
        attacher.prune(&wanted, &unseen).await?;
        crash::point("prune");
        self.attached = attached;
        if self.fresh {
            self.pins.promote()?;
            self.fresh = false;
        }
        // Also what a start that was cut off here has left. What could not be looked at may still
        // run by a link of an older version.
        if unseen.is_empty() {
            self.pins.forget_other_versions()?;
        }
        Ok(())
    }

    /// Pins maps and programs again where somebody removed their pins, or the whole file system: what is
    /// in use lives on, but the next start would not find it.
    fn keep_pins(&mut self) -> Result<(), DatapathError> {
        let folder = if self.fresh {
            self.pins.next()
        } else {
            self.pins.current()
        };
        let mut lost = Vec::new();
        for (name, id) in &self.map_ids {
            let found = match pins::info(&folder.join(name)) {
                Ok(found) => found,
                Err(error) if error.is_shortage() => return Err(error.into()),
                // One that cannot be opened is not ours.
                Err(_) => None,
            };
            if found.is_none_or(|info| info.id() != *id) {
                lost.push((name, id));
            }
        }
        if lost.is_empty() {
            return self.programs.keep_pinned(&folder);
        }
        warn!(pins = %folder.display(), maps = lost.len(), "pins of maps were removed; pinning them again");
        bpffs::ensure(&self.options.bpffs)?;
        self.pins.make(&folder)?;
        for (name, id) in lost {
            pins::pin_map(*id, &folder.join(name))?;
        }
        self.programs.keep_pinned(&folder)
    }

    /// Where the guard is.
    pub fn guard(&self) -> &GuardPlace {
        &self.post.place
    }

    /// What is attached.
    pub fn attachments(&self) -> &[Attachment] {
        &self.attached
    }
}

/// One thing that was taken away, or not.
#[derive(Debug)]
pub struct Removal {
    /// What it was.
    pub what: String,
    /// Whether that worked.
    pub result: Result<(), DatapathError>,
}

/// Detaches every program of ours and leaves the maps: the kernel carries all packets.
/// Goes on after an error.
pub async fn detach_all(pins: &Pins) -> Vec<Removal> {
    let mut removals = Vec::new();
    let mut failed = |what: String, error: PinError| {
        removals.push(Removal {
            what,
            result: Err(error.into()),
        });
    };
    let our_maps = pins.map_ids().unwrap_or_else(|error| {
        failed("find the pinned maps".to_owned(), error);
        BTreeSet::new()
    });
    let attachments = pins.attachments().unwrap_or_else(|error| {
        failed("find the attached programs".to_owned(), error);
        Vec::new()
    });
    for pin in attachments {
        removals.push(Removal {
            what: format!("detach {} from interface {}", pin.program, pin.ifindex),
            result: attach::detach(&pin, &our_maps).await,
        });
        crash::point("detach");
    }
    removals
}

fn xdp_attachment(uplink: &Interface, post: &Post) -> Attachment {
    Attachment {
        program: Program::Guard.label().to_owned(),
        interface: uplink.name.clone(),
        ifindex: uplink.ifindex,
        direction: "ingress".to_owned(),
        by: post.place.by.clone(),
        program_id: post.program_id,
        others: Vec::new(),
    }
}

/// What was attached to a hook when it was looked at last.
fn before(attached: &[Attachment], hook: &Hook, interface: &Interface) -> Option<Attachment> {
    let there =
        |old: &&Attachment| old.program == hook.program.label() && old.ifindex == interface.ifindex;
    attached.iter().find(there).cloned()
}
