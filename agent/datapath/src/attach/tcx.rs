//! Attaching by TCX links: pinned, so that they outlive the agent, and updated in place,
//! so that a restart leaves no moment without a program and none with two.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use nix::errno::Errno;
use thiserror::Error;
use tracing::warn;

use crate::pins::{self, PinError};
use crate::place::{Hook, Interface, Turn};

/// The links that this process has open, by their pins: while it runs, a program stays attached
/// even if somebody removes the pin.
pub type Links = BTreeMap<PathBuf, FdLink>;

/// A program on an interface's TCX hook.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OnHook {
    /// Its identity.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// What went wrong with a link.
#[derive(Debug, Error)]
pub enum TcxError {
    /// The kernel does not say what is on a hook.
    #[error("list the TCX programs of {interface}")]
    Query {
        /// The interface.
        interface: String,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// The kernel refuses.
    #[error("attach by a TCX link to {interface}")]
    Attach {
        /// The interface.
        interface: String,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// The program of a link cannot be replaced.
    #[error("replace the program of the TCX link {pin}")]
    Update {
        /// Its pin.
        pin: PathBuf,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// The pin of a link cannot be opened.
    #[error("open the link pinned at {pin}")]
    Open {
        /// Its pin.
        pin: PathBuf,
        /// Why not.
        #[source]
        source: LinkError,
    },
    /// The link cannot be pinned.
    #[error("pin the TCX link at {pin}")]
    Pin {
        /// The pin to be.
        pin: PathBuf,
        /// Why not.
        #[source]
        source: aya::pin::PinError,
    },
    /// A pin cannot be moved or removed.
    #[error(transparent)]
    Pins(#[from] PinError),
}

impl TcxError {
    /// Whether this process or the host lacks something to look: the pin may be as it should be.
    fn is_shortage(&self) -> bool {
        if let Self::Open {
            source: LinkError::SyscallError(SyscallError { io_error, .. }),
            ..
        } = self
        {
            pins::is_shortage(io_error)
        } else {
            false
        }
    }
}

/// How often a hook is asked whose programs come and go meanwhile.
const QUERIES: u32 = 3;

/// Whether the kernel knows TCX, by asking for what is on a hook of loopback.
pub fn is_there() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// The programs on the hook, in the order they run; none where the kernel knows no TCX: whoever
/// attaches by it is told so. Any other error is no answer: it says nothing of the hook.
pub fn on_hook(interface: &Interface, direction: TcAttachType) -> Result<Vec<OnHook>, TcxError> {
    let mut left = QUERIES;
    loop {
        left -= 1;
        let source = match SchedClassifier::query_tcx(&interface.name, direction) {
            Ok((_, programs)) => return Ok(programs.iter().map(OnHook::from).collect()),
            Err(source) => source,
        };
        match refusal(&source) {
            // bpf_prog_query() in kernel/bpf/syscall.c, v6.12: the kernel, or its configuration,
            // has no such hook.
            Some(Errno::EINVAL) => return Ok(Vec::new()),
            // A program went away between the list and the look at it.
            Some(Errno::ENOENT) if left > 0 => {}
            _ => {
                return Err(TcxError::Query {
                    interface: interface.name.clone(),
                    source,
                });
            }
        }
    }
}

/// What the kernel said, if it was asked.
fn refusal(error: &ProgramError) -> Option<Errno> {
    if let ProgramError::SyscallError(SyscallError { io_error, .. }) = error {
        io_error.raw_os_error().map(Errno::from_raw)
    } else {
        None
    }
}

impl From<&ProgramInfo> for OnHook {
    fn from(program: &ProgramInfo) -> Self {
        Self {
            id: program.id(),
            name: program.name_as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// Attaches the program and pins the link at `pin`, which is given; if one of `old` stands for
/// a link of this program on this very hook, the program takes the place of that link's.
pub fn attach(
    program: &mut SchedClassifier,
    interface: &Interface,
    hook: &Hook,
    pin: &Path,
    old: &[PathBuf],
) -> Result<FdLink, TcxError> {
    let running: Vec<u32> = on_hook(interface, hook.direction)?
        .iter()
        .filter(|program| program.name == hook.program.label())
        .map(|program| program.id)
        .collect();
    for path in old {
        let Some(link) = open(path)? else {
            continue;
        };
        if let Some(link) = on_this_hook(link, &running) {
            let updated = program
                .attach_to_link(link)
                .and_then(|id| program.take_link(id))
                .map_err(|source| TcxError::Update {
                    pin: path.clone(),
                    source,
                })?;
            if path != pin {
                std::fs::rename(path, pin).map_err(|source| PinError::Rename {
                    from: path.clone(),
                    to: pin.to_owned(),
                    source,
                })?;
            }
            return FdLink::try_from(updated).map_err(unopened(pin));
        }
        // Ours by its folder, but of an interface that is gone, or cut off by somebody.
        pins::remove(path)?;
    }
    let failed = |source| TcxError::Attach {
        interface: interface.name.clone(),
        source,
    };
    let order = match hook.turn {
        Turn::First => LinkOrder::first(),
        Turn::Last => LinkOrder::last(),
    };
    let id = program
        .attach_with_options(
            &interface.name,
            hook.direction,
            TcAttachOptions::TcxOrder(order),
        )
        .map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    let link = FdLink::try_from(link).map_err(unopened(pin))?;
    pinned(link, pin)
}

/// Makes sure that `pin` stands for the link that is held for it, if one is.
pub fn keep_pinned(links: &mut Links, pin: &Path) -> Result<(), TcxError> {
    let Some(held) = links.get(pin) else {
        return Ok(());
    };
    let identity = |link: &FdLink| link.info().map(|info| info.id());
    let there = match open(pin) {
        Ok(there) => there,
        Err(error) if error.is_shortage() => return Err(error),
        // A pin that cannot be opened is none of ours, and neither is one of another link.
        Err(_) => None,
    };
    let stands = there.is_some_and(|link| identity(&link).ok() == identity(held).ok());
    if stands {
        return Ok(());
    }
    warn!(pin = %pin.display(), "the pin of a link was removed; pinning it again");
    if let Some(link) = links.remove(pin) {
        let link = pins::replace(pin, |pin| pinned(link, pin))?;
        links.insert(pin.to_owned(), link);
    }
    Ok(())
}

/// Pins a link, and holds it.
pub(crate) fn pinned(link: FdLink, pin: &Path) -> Result<FdLink, TcxError> {
    let pinned = link.pin(pin).map_err(|source| TcxError::Pin {
        pin: pin.to_owned(),
        source,
    })?;
    Ok(pinned.into())
}

fn unopened(pin: &Path) -> impl Fn(LinkError) -> TcxError {
    let pin = pin.to_owned();
    move |source| TcxError::Open {
        pin: pin.clone(),
        source,
    }
}

/// Identity of the program that runs by the link pinned at `path`; `None` if nothing is pinned.
pub fn program_of(path: &Path) -> Result<Option<u32>, TcxError> {
    let Some(link) = open(path)? else {
        return Ok(None);
    };
    let info = link.info().map_err(unopened(path))?;
    Ok(Some(info.program_id()))
}

/// The link pinned at `path`; `None` if nothing is.
pub(crate) fn open(path: &Path) -> Result<Option<FdLink>, TcxError> {
    match PinnedLink::from_pin(path) {
        Ok(pinned) => Ok(Some(FdLink::from(pinned))),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(source) => Err(TcxError::Open {
            pin: path.to_owned(),
            source,
        }),
    }
}

fn on_this_hook(link: FdLink, running: &[u32]) -> Option<SchedClassifierLink> {
    let id = link.info().ok()?.program_id();
    if !running.contains(&id) {
        return None;
    }
    SchedClassifierLink::try_from(link).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_cannot_be_asked_is_not_taken_for_an_empty_one() {
        let nowhere = Interface {
            name: "no such link".to_owned(),
            ifindex: 1,
        };
        let error = on_hook(&nowhere, TcAttachType::Ingress).unwrap_err();
        assert!(matches!(error, TcxError::Query { .. }), "{error:?}");
    }
}
