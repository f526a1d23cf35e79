//! The programs of a node, open: from the object that was just loaded, by way of their pins, or
//! from the pins alone.
//!
//! Whoever has the pins can attach them, then: the daemon, and what runs while there is none.

use std::collections::BTreeMap;
use std::path::Path;

use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, Xdp};
use aya::{Ebpf, pin};
use aya_obj::programs::xdp::XdpAttachType;
use tracing::{debug, warn};
use twill_abi::Program;
use twill_core::chain::chain;

use crate::attach::xdp;
use crate::error::DatapathError;
use crate::pins::{self, PinError, Pins};
use crate::place::HOOKS;

/// Every program that can be attached, in the kernel.
pub struct Programs {
    classifiers: BTreeMap<&'static str, SchedClassifier>,
    guard: Option<Xdp>,
}

impl Programs {
    /// Pins the programs of a loaded object in `folder`, in the place of others, and opens them
    /// there: what is attached comes from the pins, always.
    pub(crate) fn pin(ebpf: &mut Ebpf, folder: &Path) -> Result<Self, DatapathError> {
        for hook in HOOKS {
            let name = hook.program.label();
            let program = classifier(ebpf, name)?;
            pin_at(&Pins::program(folder, name), |path| program.pin(path))?;
        }
        let guard = Pins::program(folder, Program::Guard.label());
        match xdp::program(ebpf) {
            Ok(program) => pin_at(&guard, |path| program.pin(path))?,
            // That of an earlier start knows less than this one's programs.
            Err(_) => pins::remove(&guard)?,
        }
        Self::open(folder)
    }

    /// Opens what is pinned in `folder`.
    pub fn open(folder: &Path) -> Result<Self, DatapathError> {
        let mut classifiers = BTreeMap::new();
        for hook in HOOKS {
            let name = hook.program.label();
            let path = Pins::program(folder, name);
            let program =
                SchedClassifier::from_pin(&path).map_err(|source| unopened(&path, source))?;
            classifiers.insert(name, program);
        }
        let path = Pins::program(folder, Program::Guard.label());
        let guard = Xdp::from_pin(path, XdpAttachType::Interface);
        Ok(Self {
            classifiers,
            guard: guard
                .inspect_err(|error| debug!(error = %chain(error), "no guard for XDP is pinned"))
                .ok(),
        })
    }

    /// A program of traffic control.
    pub(crate) fn classifier(
        &mut self,
        program: Program,
    ) -> Result<&mut SchedClassifier, DatapathError> {
        let name = program.label();
        let found = self.classifiers.get_mut(name);
        found.ok_or(DatapathError::NoProgram(name))
    }

    /// The guard for XDP, where the kernel took it.
    pub(crate) fn guard(&mut self) -> Option<&mut Xdp> {
        self.guard.as_mut()
    }

    /// Pins those again whose pins somebody removed: they run on, but nobody else would find
    /// them.
    pub(crate) fn keep_pinned(&mut self, folder: &Path) -> Result<(), DatapathError> {
        for (name, program) in &mut self.classifiers {
            let path = Pins::program(folder, name);
            if !stands(&path, program.info()) {
                warn!(pin = %path.display(), "the pin of a program was removed; pinning it again");
                pin_at(&path, |path| program.pin(path))?;
            }
        }
        if let Some(program) = &mut self.guard {
            let path = Pins::program(folder, Program::Guard.label());
            if !stands(&path, program.info()) {
                pin_at(&path, |path| program.pin(path))?;
            }
        }
        Ok(())
    }
}

/// Whether the program is what is pinned there.
fn stands(path: &Path, program: Result<ProgramInfo, ProgramError>) -> bool {
    let pinned = ProgramInfo::from_pin(path).map(|info| info.id());
    matches!((pinned, program), (Ok(pinned), Ok(program)) if pinned == program.id())
}

fn pin_at(
    path: &Path,
    pin: impl FnOnce(&Path) -> Result<(), pin::PinError>,
) -> Result<(), DatapathError> {
    pins::replace(path, |path| {
        pin(path).map_err(|source| PinError::PinProgram {
            path: path.to_owned(),
            source,
        })
    })?;
    Ok(())
}

fn unopened(path: &Path, source: ProgramError) -> DatapathError {
    PinError::OpenProgram {
        path: path.to_owned(),
        source,
    }
    .into()
}

/// A program of the object by name.
pub(crate) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    ebpf.program_mut(name)
        .ok_or(DatapathError::NoProgram(name))?
        .try_into()
        .map_err(|source| DatapathError::Inspect {
            program: name,
            source,
        })
}
