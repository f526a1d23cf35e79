//! Programs where they belong: put there, kept there, taken away again. What is attached comes from
//! [`Programs`], so it is all the same who loaded it.

pub mod filter;
pub mod tcx;
pub mod xdp;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use twill_core::chain::chain;

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use self::filter::{Filter, FilterError, Slot};
use self::tcx::{Links, OnHook, TcxError};
use crate::error::DatapathError;
use crate::pins::{self, AttachmentKind, AttachmentPin, PinError, Pins};
use crate::place::{Hook, Interface};

/// Which ways of attaching are tried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum AttachBy {
    /// A TCX link, else a tc filter.
    #[default]
    Auto,
    /// TCX links only.
    Tcx,
    /// Filters of traffic control only.
    Netlink,
}

impl AttachBy {
    /// Whether only filters are left, which need a qdisc.
    pub fn is_by_filter(self) -> bool {
        match self {
            Self::Auto => !tcx::is_there(),
            Self::Tcx => false,
            Self::Netlink => true,
        }
    }
}

/// A program that is attached.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attachment {
    /// Its name.
    pub program: String,
    /// The interface.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `tcx` or `netlink`.
    pub by: String,
    /// Identity of the program.
    pub program_id: u32,
    /// Programs of others on the same TCX hook.
    pub others: Vec<String>,
}

/// What attaching needs to know.
pub(crate) struct Attacher<'a> {
    pub(crate) pins: &'a Pins,
    pub(crate) by: AttachBy,
    pub(crate) slot: Slot,
    /// Identities of maps that only our programs use.
    pub(crate) our_maps: &'a BTreeSet<u32>,
    /// What was attached before, to tell a start from a repair.
    pub(crate) before: &'a [Attachment],
    /// The TCX links that are open.
    pub(crate) links: &'a mut Links,
}

impl Attacher<'_> {
    /// Makes sure that the program is attached where it belongs, once.
    pub(crate) async fn ensure(
        &mut self,
        hook: &Hook,
        interface: &Interface,
        program: &mut SchedClassifier,
    ) -> Result<(Attachment, PathBuf), DatapathError> {
        let name = hook.program.label();
        let id = program
            .info()
            .map_err(|source| DatapathError::Inspect {
                program: name,
                source,
            })?
            .id();
        let link_pin = self.pins.link(name, interface.ifindex);
        let Slot { priority, handle } = self.slot;
        let filter_pin = self.pins.filter(name, interface.ifindex, priority, handle);

        let on_hook = tcx::on_hook(interface, hook.direction)?;
        if on_hook.iter().any(|running| running.id == id) {
            tcx::keep_pinned(self.links, &link_pin).map_err(|tcx| DatapathError::Attach {
                program: name,
                tcx: Some(Box::new(tcx)),
                filter: None,
            })?;
            let attachment = self.attachment(hook, interface, id, "tcx", &on_hook);
            return Ok((attachment, link_pin));
        }
        let filter = self.filter_for(interface, hook.direction).await?;
        if filter.as_ref().and_then(|filter| filter.program_id) == Some(id) {
            if !filter_pin.exists() {
                // Without it nobody would find the filter to take it away.
                pin_program(program, &filter_pin);
            }
            let attachment = self.attachment(hook, interface, id, "netlink", &on_hook);
            return Ok((attachment, filter_pin));
        }
        if self
            .before
            .iter()
            .any(|old| old.program == name && old.ifindex == interface.ifindex)
        {
            warn!(
                program = name,
                interface = interface.name,
                "somebody detached the program; attaching it again"
            );
        }

        let by_tcx = match self.by {
            AttachBy::Netlink => None,
            AttachBy::Auto | AttachBy::Tcx => {
                let old = self.old_links(name, interface.ifindex)?;
                let attached = tcx::attach(program, interface, hook, &link_pin, &old);
                Some(attached.map(|link| {
                    self.links.insert(link_pin.clone(), link);
                }))
            }
        };
        let (by, pin) = match (by_tcx, self.by) {
            (Some(Ok(())), _) => ("tcx", link_pin),
            (Some(Err(tcx)), AttachBy::Tcx) => {
                return Err(DatapathError::Attach {
                    program: name,
                    tcx: Some(Box::new(tcx)),
                    filter: None,
                });
            }
            (tcx, _) => {
                self.attach_filter(program, hook, interface, filter.as_ref(), &filter_pin)
                    .map_err(|filter| DatapathError::Attach {
                        program: name,
                        tcx: tcx.and_then(Result::err).map(Box::new),
                        filter: Some(Box::new(filter)),
                    })?;
                ("netlink", filter_pin)
            }
        };
        info!(
            program = name,
            interface = interface.name,
            by,
            "program attached"
        );
        let on_hook = tcx::on_hook(interface, hook.direction)?;
        Ok((self.attachment(hook, interface, id, by, &on_hook), pin))
    }

    fn attachment(
        &self,
        hook: &Hook,
        interface: &Interface,
        program_id: u32,
        by: &str,
        on_hook: &[OnHook],
    ) -> Attachment {
        let mut others: Vec<&OnHook> = on_hook
            .iter()
            .filter(|other| other.id != program_id)
            .collect();
        // One of ours may still be there from an earlier version. Names tell nothing: another
        // agent's programs have the same.
        if !others.is_empty() {
            let ours = programs_with(self.our_maps);
            others.retain(|other| !ours.contains(&other.id));
        }
        Attachment {
            program: hook.program.label().to_owned(),
            interface: interface.name.clone(),
            ifindex: interface.ifindex,
            direction: match hook.direction {
                TcAttachType::Ingress => "ingress",
                TcAttachType::Egress | TcAttachType::Custom(_) => "egress",
            }
            .to_owned(),
            by: by.to_owned(),
            program_id,
            others: others.into_iter().map(|other| other.name.clone()).collect(),
        }
    }

    /// Detaches whatever our pins stand for and is not in `wanted`. Interfaces that could not be
    /// looked at keep what they have.
    pub(crate) async fn prune(
        &mut self,
        wanted: &[PathBuf],
        unseen: &BTreeSet<u32>,
    ) -> Result<(), DatapathError> {
        let unseen_link =
            |pin: &Path| pins::attachment(pin).is_some_and(|pin| unseen.contains(&pin.ifindex));
        self.links
            .retain(|pin, _| wanted.contains(pin) || unseen_link(pin));
        for pin in self.pins.attachments()? {
            if wanted.contains(&pin.path) || unseen.contains(&pin.ifindex) {
                continue;
            }
            let is_same = |other: &PathBuf| other.file_name() == pin.path.file_name();
            if wanted.iter().any(is_same) {
                // Of another ABI version: its filter stood where the present one stands now.
                pins::remove(&pin.path)?;
            } else {
                detach(&pin, self.our_maps).await?;
            }
        }
        Ok(())
    }

    async fn filter_for(
        &self,
        interface: &Interface,
        direction: TcAttachType,
    ) -> Result<Option<Filter>, DatapathError> {
        if self.by == AttachBy::Tcx {
            return Ok(None);
        }
        Ok(filter::find(interface, direction, self.slot).await?)
    }

    fn attach_filter(
        &self,
        program: &mut SchedClassifier,
        hook: &Hook,
        interface: &Interface,
        existing: Option<&Filter>,
        pin: &Path,
    ) -> Result<(), FilterError> {
        if let Some(existing) = existing
            && !is_ours(existing, self.our_maps)
            && !is_same(existing, program)
        {
            return Err(FilterError::Foreign {
                interface: interface.name.clone(),
                slot: self.slot,
                found: format!(
                    "of kind {:?} and name {:?}",
                    existing.kind,
                    existing.name.as_deref().unwrap_or_default()
                ),
            });
        }
        filter::attach(program, interface, hook.direction, self.slot, existing)?;
        pin_program(program, pin);
        Ok(())
    }

    fn old_links(&self, program: &str, ifindex: u32) -> Result<Vec<PathBuf>, DatapathError> {
        let pins = self.pins.attachments()?;
        Ok(pins
            .into_iter()
            .filter(|pin| {
                pin.kind == AttachmentKind::Tcx && pin.program == program && pin.ifindex == ifindex
            })
            .map(|pin| pin.path)
            .collect())
    }
}

/// Pins the program of a filter. The pin only says where to look: what is there is proved by its
/// maps.
fn pin_program(program: &mut SchedClassifier, pin: &Path) {
    let pinned = pins::replace(pin, |pin| {
        program.pin(pin).map_err(|source| PinError::PinProgram {
            path: pin.to_owned(),
            source,
        })
    });
    if let Err(error) = pinned {
        let error = chain(&error);
        warn!(pin = %pin.display(), error, "pin the program of the tc filter");
    }
}

/// Detaches what `pin` stands for, if it is ours, and removes the pin.
pub(crate) async fn detach(
    pin: &AttachmentPin,
    our_maps: &BTreeSet<u32>,
) -> Result<(), DatapathError> {
    if let AttachmentKind::Filter { priority, handle } = pin.kind {
        let slot = Slot { priority, handle };
        // An interface that is gone took its filters along.
        if let Some(interface) = Interface::at(pin.ifindex) {
            for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
                if let Some(found) = filter::find(&interface, direction, slot).await?
                    && found.name.as_deref() == Some(pin.program.as_str())
                    && is_ours(&found, our_maps)
                {
                    filter::detach(&interface, direction, slot)?;
                }
            }
        }
    }
    // The pin of a link is the last that holds it.
    pins::remove(&pin.path)?;
    info!(
        program = pin.program,
        ifindex = pin.ifindex,
        "program detached"
    );
    Ok(())
}

/// The name of a TCX program on the interface that is not one of `ours`, if there is one.
pub(crate) fn foreign_program(
    interface: &Interface,
    ours: &BTreeSet<u32>,
) -> Result<Option<String>, TcxError> {
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        let mut programs = tcx::on_hook(interface, direction)?.into_iter();
        if let Some(foreign) = programs.find(|program| !ours.contains(&program.id)) {
            return Ok(Some(foreign.name));
        }
    }
    Ok(None)
}

/// Whether the filter's program is this very one, loaded earlier, whose maps nobody knows any
/// more because the pins are gone: same name, and same tag, which is a hash of its instructions.
fn is_same(filter: &Filter, program: &SchedClassifier) -> bool {
    let Ok(info) = program.info() else {
        return false;
    };
    let same = |other: &ProgramInfo| {
        Some(other.id()) == filter.program_id
            && other.tag() == info.tag()
            && other.name() == info.name()
    };
    loaded_programs()
        .filter_map(Result::ok)
        .any(|other| same(&other))
}

fn is_ours(filter: &Filter, our_maps: &BTreeSet<u32>) -> bool {
    filter
        .program_id
        .is_some_and(|id| programs_with(our_maps).contains(&id))
}

/// Identities of the programs that use one of our maps: they are ours, for nobody else can open
/// those. One walk over all of the host's programs, of which there may be thousands.
pub(crate) fn programs_with(our_maps: &BTreeSet<u32>) -> BTreeSet<u32> {
    let uses_our_maps = |program: &ProgramInfo| {
        program
            .map_ids()
            .ok()
            .flatten()
            .is_some_and(|maps| maps.iter().any(|map| our_maps.contains(map)))
    };
    loaded_programs()
        .filter_map(Result::ok)
        .filter(uses_our_maps)
        .map(|program| program.id())
        .collect()
}
