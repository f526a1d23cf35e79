//! What can go wrong between the agent and the kernel's network configuration.

use std::io;
use std::net::Ipv4Addr;

use nix::errno::Errno;
use thiserror::Error;
use twill_core::plan::KernelOp;
use twill_core::subnet::Subnet;

use super::uplink::UplinkError;

/// A question to the kernel that was not answered as hoped.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Failure {
    /// The kernel said no.
    #[error("{}{}{}", .errno.desc(), if .detail.is_empty() { "" } else { ": " }, .detail)]
    Refused {
        /// The reason as a number.
        errno: Errno,
        /// The reason in the kernel's words; may be empty.
        detail: String,
    },
    /// The socket itself failed.
    #[error("netlink socket: {}", .0.desc())]
    Socket(Errno),
    /// Answers were lost because the receive buffer was full.
    #[error("answers were lost: the netlink receive buffer overflowed")]
    Overrun,
    /// The kernel took only a part of a request.
    #[error("the kernel took only a part of the request")]
    CutShort,
    /// No answer came.
    #[error("no answer from the kernel within {seconds} s")]
    NoAnswer {
        /// How long was waited.
        seconds: u64,
    },
    /// An answer that makes no sense.
    #[error("answer that cannot be decoded: {why}")]
    Undecodable {
        /// The decoder's words.
        why: String,
    },
    /// A dump that changes interrupted again and again.
    #[error("changes interrupted each of {attempts} attempts to read")]
    Interrupted {
        /// How often it was tried.
        attempts: u32,
    },
}

impl Failure {
    /// The kernel's reason, if it gave one.
    pub(super) fn refusal(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket(_)
            | Self::Overrun
            | Self::CutShort
            | Self::NoAnswer { .. }
            | Self::Undecodable { .. }
            | Self::Interrupted { .. } => None,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ENOBUFS => Self::Overrun,
            errno => Self::Socket(errno),
        }
    }
}

/// An attempt on the kernel's network configuration that did not succeed.
#[derive(Debug, Error)]
#[expect(
    missing_docs,
    reason = "the texts say what the variants and their fields are"
)]
pub enum Error {
    #[error("open a netlink socket")]
    Open { source: Failure },
    #[error("read the {what} of {device}")]
    Observe {
        what: &'static str,
        device: String,
        source: Failure,
    },
    #[error("read the {what}, to find pods")]
    HostLinks { what: &'static str, source: Failure },
    #[error("read the routes to {subnet}")]
    Routes { subnet: Subnet, source: Failure },
    #[error("ask for the way to {underlay}")]
    WayTo { underlay: Ipv4Addr, source: Failure },
    #[error("Failed to setup blackhole route for {subnet}")]
    Blackhole { subnet: Subnet, source: Failure },
    #[error("read the vxlan devices")]
    VxlanDevices { source: Failure },
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    #[error("interface {device} does not exist")]
    NoDevice { device: String },
    #[error("{op}")]
    Op { op: Box<KernelOp>, source: Failure },
    #[error("look for interface {device}")]
    FindDevice { device: String, source: Failure },
    #[error(
        "create vxlan device {device}: VNI {vni} on UDP port {port} is in use by {holder}; \
         remove that device, or set another VNI or Port in the network's backend"
    )]
    VniInUse {
        device: String,
        vni: u32,
        port: u16,
        holder: String,
    },
    #[error("set the alias of {device} to {alias:?}")]
    SetAlias {
        device: String,
        alias: String,
        source: Failure,
    },
    #[error("read the MTUs of routes")]
    RouteMtus { source: Failure },
    #[error("read the routing rules (ip rule)")]
    RoutingRules { source: Failure },
    #[error(
        "set {device} up: its UDP port is in use; stop the program or the device that has it, \
         or set another Port in the network's backend"
    )]
    PortInUse { device: String },
}
