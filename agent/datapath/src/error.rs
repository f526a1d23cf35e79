//! Why BPF does not work.

use std::io;

use aya::EbpfError;
use aya::programs::ProgramError;
use thiserror::Error;
use twill_core::chain::chain;

use crate::attach::filter::FilterError;
use crate::attach::tcx::TcxError;
use crate::bpffs::BpffsError;
use crate::maps::MapsError;
use crate::object::ObjectError;
use crate::pins::PinError;
use crate::probe::ProbeError;

/// Why BPF does not work, or not as it should.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// There is no BPF file system.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// The object cannot be used.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Something about the pins.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Something about a map.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// We may not load programs.
    #[error(
        "load a BPF program (it takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or CAP_SYS_ADMIN)"
    )]
    MayNotLoad(#[source] ProgramError),
    /// The kernel has no BPF for traffic control.
    #[error("the kernel does not know BPF programs for traffic control")]
    OldKernel,
    /// The kernel lacks something that no program can do without.
    #[error(transparent)]
    Kernel(#[from] ProbeError),
    /// The kernel refuses maps or programs.
    #[error("load the BPF object")]
    Load {
        /// Why.
        #[source]
        source: Box<EbpfError>,
    },
    /// The verifier refuses a program.
    #[error("load the program {program}: the verifier says {reason:?}")]
    Verifier {
        /// Its name.
        program: &'static str,
        /// The verifier's last words.
        reason: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The object lacks a program.
    #[error("the BPF object has no program {0}")]
    NoProgram(&'static str),
    /// A program cannot be looked at.
    #[error("look at the program {program}")]
    Inspect {
        /// Its name.
        program: &'static str,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// Neither way of attaching works.
    #[error("attach {program}: {}", both(tcx.as_deref(), filter.as_deref()))]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Why not by TCX, if that was tried.
        tcx: Option<Box<TcxError>>,
        /// Why not by a filter, if that was tried.
        filter: Option<Box<FilterError>>,
    },
    /// Something about a tc filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Something about a TCX hook.
    #[error(transparent)]
    Tcx(#[from] TcxError),
}

impl DatapathError {
    /// Whether nobody knows what is attached: neither that something is missing nor that it is
    /// there. A later look will tell.
    pub fn says_nothing(&self) -> bool {
        if let Self::Attach { tcx: Some(tcx), .. } = self {
            return matches!(**tcx, TcxError::Query { .. });
        }
        matches!(
            self,
            Self::Tcx(TcxError::Query { .. })
                | Self::Filter(FilterError::Socket(_) | FilterError::List { .. })
        )
    }

    /// The name of this kind of error in counts and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Bpffs(_) => "bpffs",
            Self::Object(_) => "bpf_object",
            Self::Pins(_) => "pins",
            Self::Maps(_) => "maps",
            Self::MayNotLoad(_) => "permission",
            Self::OldKernel | Self::Kernel(_) => "old_kernel",
            Self::Load { .. } => "bpf_load",
            Self::Verifier { .. } => "verifier",
            Self::NoProgram(_) => "no_program",
            Self::Inspect { .. } => "inspect_program",
            Self::Attach { .. } => "attach",
            Self::Filter(_) => "tc_filter",
            Self::Tcx(_) => "tcx",
        }
    }
}

fn both(tcx: Option<&TcxError>, filter: Option<&FilterError>) -> String {
    let causes = tcx
        .map(|error| chain(error))
        .into_iter()
        .chain(filter.map(|error| chain(error)));
    causes.collect::<Vec<_>>().join("; and ")
}
