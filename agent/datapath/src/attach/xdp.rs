//! Attaching the guard by an XDP link: pinned, updated in place, and always in a mode that
//! somebody chose. Somebody else's XDP program is never replaced.

use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError};
use aya::programs::xdp::{XdpError as AyaXdpError, XdpLink};
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::sys::SyscallError;
use nix::errno::Errno;
use thiserror::Error;
use tracing::debug;

use super::tcx::{self, TcxError};
use crate::pins::{self, PinError, XdpKind};
use crate::place::Interface;
use crate::undisturbed;

/// The guard's forms: for kernels from 5.18 on, which may keep a frame in several pieces, and for
/// older ones.
const FORMS: [&str; 2] = ["guard", "guard_whole"];

/// What went wrong with the guard's link.
#[derive(Debug, Error)]
pub enum XdpError {
    /// The kernel takes neither form of the program.
    #[error("load the program guard")]
    Load(#[source] ProgramError),
    /// It was tried, and refused.
    #[error("the kernel has not taken the program guard; twilld's log says why")]
    NotLoaded,
    /// The object lacks the program.
    #[error("the BPF object has no program guard")]
    NoProgram,
    /// The kernel or the driver refuses.
    #[error("{}", refusal(interface, *kind, *errno))]
    Refused {
        /// The interface.
        interface: String,
        /// The mode.
        kind: XdpKind,
        /// Why.
        errno: Errno,
    },
    /// Something else.
    #[error("attach by an XDP link to {interface}")]
    Attach {
        /// The interface.
        interface: String,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// The kernel has XDP, but no links to it that could be pinned.
    #[error("the kernel has no XDP links that outlive the agent (it takes 5.9)")]
    NoLinks(#[source] LinkError),
    /// Something about the pin.
    #[error(transparent)]
    Link(#[from] TcxError),
    /// Something about the pin.
    #[error(transparent)]
    Pins(#[from] PinError),
}

/// A refusal in words that say what to do.
fn refusal(interface: &str, kind: XdpKind, errno: Errno) -> String {
    let mode = kind.label();
    if [Errno::EBUSY, Errno::EEXIST].contains(&errno) {
        format!("{interface} has somebody else's XDP program, which is left alone")
    } else if errno == Errno::EOPNOTSUPP {
        format!("the driver of {interface} has no {mode} XDP")
    } else if errno == Errno::ENOSPC {
        format!("the driver of {interface} has too few queues left for {mode} XDP ({errno})")
    } else if [Errno::ERANGE, Errno::EINVAL, Errno::E2BIG].contains(&errno) {
        format!(
            "the driver of {interface} refuses {mode} XDP ({errno}): most often its MTU is above \
             what the driver takes with XDP (about 3500 for ena, bnxt_en and virtio_net, a page \
             less headers for others), or it has too few queues left"
        )
    } else {
        format!("{interface} takes no {mode} XDP: {errno}")
    }
}

/// Brings the guard into the kernel, in the form that it takes. To be called while the object has
/// its maps.
pub(crate) fn load(ebpf: &mut Ebpf) -> Result<(), XdpError> {
    let mut refused = XdpError::NoProgram;
    for form in FORMS {
        let program: &mut Xdp = ebpf
            .program_mut(form)
            .and_then(|program| program.try_into().ok())
            .ok_or(XdpError::NoProgram)?;
        match undisturbed::load(|| program.load()) {
            Ok(()) => return Ok(()),
            Err(error) => {
                debug!(form, %error, "the kernel does not take this form of the guard");
                refused = XdpError::Load(error);
            }
        }
    }
    Err(refused)
}

/// The guard, if it was loaded.
pub(crate) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, XdpError> {
    let loaded = ebpf.programs_mut().find_map(|(name, program)| {
        let program: &mut Xdp = program.try_into().ok()?;
        (FORMS.contains(&name) && program.fd().is_ok()).then_some(program)
    });
    loaded.ok_or(XdpError::NotLoaded)
}

/// Makes sure that the link runs this program; [`None`] if the link is cut off from its interface.
/// It keeps its program then, so only the attempt tells: `bpf_xdp_link_update()` in
/// `net/core/dev.c`, v6.12, which disturbs no driver where the program is this one already.
pub(crate) fn update(program: &mut Xdp, link: FdLink) -> Result<Option<FdLink>, XdpError> {
    let updated = XdpLink::try_from(link)
        .ok()
        .and_then(|link| program.attach_to_link(link).ok())
        .and_then(|id| program.take_link(id).ok());
    let link = updated.map(FdLink::try_from).transpose();
    link.map_err(XdpError::NoLinks)
}

/// Attaches the program and pins the link at `pin`, which is given; if one of `old`, links of the
/// same mode to this interface, still stands, the program takes the place of that link's.
pub(crate) fn attach(
    program: &mut Xdp,
    interface: &Interface,
    kind: XdpKind,
    pin: &Path,
    old: &[PathBuf],
) -> Result<FdLink, XdpError> {
    for path in old {
        if let Some(link) = tcx::open(path)?
            && let Some(link) = update(program, link)?
        {
            if path != pin {
                std::fs::rename(path, pin).map_err(|source| PinError::Rename {
                    from: path.clone(),
                    to: pin.to_owned(),
                    source,
                })?;
            }
            return Ok(link);
        }
        // Ours by its folder, but of an interface that is gone, or cut off by somebody.
        pins::remove(path)?;
    }
    let mode = match kind {
        XdpKind::Native => XdpMode::Driver,
        XdpKind::Generic => XdpMode::Skb,
    };
    let id = program
        .attach_to_if_index(interface.ifindex, mode)
        .map_err(|source| refused(interface, kind, source))?;
    let link = program
        .take_link(id)
        .map_err(|source| refused(interface, kind, source))?;
    // A link of netlink's goes with the process; dropped, it detaches.
    let link = FdLink::try_from(link).map_err(XdpError::NoLinks)?;
    Ok(tcx::pinned(link, pin)?)
}

fn refused(interface: &Interface, kind: XdpKind, source: ProgramError) -> XdpError {
    let error = if let ProgramError::SyscallError(SyscallError { io_error, .. }) = &source {
        io_error.raw_os_error()
    } else if let ProgramError::XdpError(AyaXdpError::NetlinkError(error)) = &source {
        error.raw_os_error()
    } else {
        None
    };
    let interface = interface.name.clone();
    match error.map(Errno::from_raw) {
        Some(errno) => XdpError::Refused {
            interface,
            kind,
            errno,
        },
        None => XdpError::Attach { interface, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errno: Errno, says: &str) {
        let told = refusal("eth7", XdpKind::Native, errno);
        assert!(told.contains("eth7") && told.contains(says), "{told}");
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        check(Errno::EBUSY, "somebody else's XDP program");
        check(Errno::EEXIST, "left alone");
        check(Errno::EOPNOTSUPP, "has no native XDP");
        for errno in [Errno::ERANGE, Errno::EINVAL, Errno::E2BIG] {
            check(errno, "its MTU is above what the driver takes");
        }
        check(Errno::ENOSPC, "too few queues");
        check(Errno::ENOMEM, "ENOMEM");
    }
}
