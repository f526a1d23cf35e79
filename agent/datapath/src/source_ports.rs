//! Which of its range of ports the kernel's vxlan sends from: the last one as well, or not.
//!
//! `udp_flow_src_port()` in include/net/udp.h never takes it in v6.12 and does in later kernels.
//! A flow must leave from one port whoever carries it, or switches that balance by ports would
//! send it two ways. Found by trying: a vxlan device with a range of two ports, in a network
//! namespace that is gone with the thread that made it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;

use futures_util::TryStreamExt as _;
use netlink_packet_route::neighbour::NeighbourFlags;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, LinkVxlan};
use thiserror::Error;

use super::undisturbed::Undisturbed;

/// The range of the trial.
const RANGE: (u16, u16) = (40_000, 40_001);
/// Flows that are sent: that all of them miss a port which is taken happens once in 2⁶⁴ times.
const FLOWS: u16 = 64;
/// So many have to be seen before an answer is believed.
const ENOUGH: usize = 32;
/// How long the next packet may take, milliseconds; a veth takes none.
const ARRIVAL_MS: i64 = 200;
const CABLE: [&str; 2] = ["trial0", "trial1"];
const DEVICE: &str = "trial";
const PORT: u16 = 4789;
const UNDERLAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OVERLAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const BROADCAST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 255);
const PREFIX: u8 = 24;

/// Whether the kernel takes the last port of a range.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LastPort {
    /// It takes every other one.
    #[default]
    Spared,
    /// It takes this one as well.
    Taken,
}

/// Why it is not known.
#[derive(Debug, Error)]
pub enum SourcePortError {
    /// The kernel refuses a network namespace (it takes `CAP_SYS_ADMIN`).
    #[error("make a network namespace")]
    Namespace(#[source] Errno),
    /// Sockets or threads are refused.
    #[error("send packets and look at them")]
    Io(#[from] io::Error),
    /// The devices are refused.
    #[error("set up a vxlan device")]
    Device(#[from] rtnetlink::Error),
    /// The trial came to nothing.
    #[error("{seen} of {FLOWS} packets were seen, {ENOUGH} would tell")]
    Lost {
        /// Packets that were sent.
        seen: usize,
    },
}

impl LastPort {
    /// Asks the kernel. Takes some milliseconds, and blocks for them.
    pub fn find() -> Result<Self, SourcePortError> {
        let _undisturbed = Undisturbed::begin();
        let trial = || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(SourcePortError::Namespace)?;
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build()?;
            runtime.block_on(Self::try_here())
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("source-ports".to_owned());
            match thread.spawn_scoped(scope, trial)?.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The end of a range as the programs count, which never take it: `last` is what
    /// `net.ipv4.ip_local_port_range` calls the highest.
    pub fn end(self, last: u16) -> u16 {
        match self {
            Self::Spared => last,
            // One that ends with the last port of all ends one earlier; there is none behind it.
            Self::Taken => last.saturating_add(1),
        }
    }

    async fn try_here() -> Result<Self, SourcePortError> {
        // Every packet of every interface here, sent ones too.
        let wire = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        );
        let wire = wire.map_err(io::Error::from)?;
        let patience = TimeVal::new(0, ARRIVAL_MS * 1000);
        setsockopt(&wire, sockopt::ReceiveTimeout, &patience).map_err(io::Error::from)?;
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        set_up(&handle).await?;
        connection.abort();

        let sender = UdpSocket::bind((OVERLAY, 0))?;
        sender.set_broadcast(true)?;
        let mut ports = Vec::new();
        for flow in 1..=FLOWS {
            sender.send_to(&[0; 8], SocketAddrV4::new(BROADCAST, flow))?;
        }
        let mut frame = [0; 256];
        while ports.len() < usize::from(FLOWS)
            && let Ok(length) = recv(wire.as_raw_fd(), &mut frame, MsgFlags::empty())
        {
            ports.extend(source_port(frame.get(..length).unwrap_or_default()));
        }
        Self::told_by(&ports)
    }

    fn told_by(ports: &[u16]) -> Result<Self, SourcePortError> {
        let (_, last) = RANGE;
        if ports.contains(&last) {
            Ok(Self::Taken)
        } else if ports.len() >= ENOUGH {
            Ok(Self::Spared)
        } else {
            let seen = ports.len();
            Err(SourcePortError::Lost { seen })
        }
    }
}

/// The UDP source port of a frame of the trial's device; `None` of any other frame.
fn source_port(frame: &[u8]) -> Option<u16> {
    let (ethernet, packet) = frame.split_at_checked(14)?;
    let (ip, udp) = packet.split_at_checked(20)?;
    let ours = ethernet.ends_with(&[0x08, 0]) && ip.starts_with(&[0x45]) && ip.get(9) == Some(&17);
    let port = |from: usize| {
        let bytes = udp.get(from..from + 2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    (ours && port(2)? == PORT).then(|| port(0))?
}

/// A vxlan device that sends everything by a cable whose other end nobody reads. Not by loopback:
/// what a vxlan device sends to its own host never gets a source port.
async fn set_up(handle: &Handle) -> Result<(), rtnetlink::Error> {
    let [near, far] = CABLE;
    let cable = LinkVeth::new(near, far).build();
    handle.link().add(cable).execute().await?;
    for end in CABLE {
        let up = LinkUnspec::new_with_index(index_of(handle, end).await?).up();
        handle.link().set(up.build()).execute().await?;
    }
    let uplink = index_of(handle, near).await?;
    let address = handle.address().add(uplink, UNDERLAY.into(), PREFIX);
    address.execute().await?;
    let peer = handle.neighbours().add(uplink, PEER.into());
    peer.link_layer_address(&PEER_MAC).execute().await?;

    let device = LinkVxlan::new(DEVICE, 1)
        .port(PORT)
        .port_range(RANGE.0, RANGE.1)
        .learning(false)
        .up();
    handle.link().add(device.build()).execute().await?;
    let device = index_of(handle, DEVICE).await?;
    let address = handle.address().add(device, OVERLAY.into(), PREFIX);
    address.execute().await?;
    let everything = handle.neighbours().add_bridge(device, &[0; 6]);
    let everything = everything.flags(NeighbourFlags::Own);
    everything.destination(PEER.into()).execute().await
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, rtnetlink::Error> {
    let links = handle.link().get().match_name(name.to_owned()).execute();
    let link = std::pin::pin!(links).try_next().await?;
    link.map(|link| link.header.index)
        .ok_or(rtnetlink::Error::RequestFailed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_port_tells_and_silence_does_not() {
        let told = |ports: &[u16]| LastPort::told_by(ports).ok();
        assert_eq!(told(&[40_000, 40_001]), Some(LastPort::Taken));
        assert_eq!(told(&[40_000; ENOUGH]), Some(LastPort::Spared));
        assert_eq!(told(&[40_000; ENOUGH - 1]), None);
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn only_frames_of_the_device_tell() {
        let mut frame = [0; 60];
        frame[12..15].copy_from_slice(&[0x08, 0, 0x45]);
        frame[23] = 17;
        frame[34..38].copy_from_slice(&[0x9c, 0x41, 0x12, 0xb5]);
        assert_eq!(source_port(&frame), Some(40_001));
        assert_eq!(source_port(&frame[..37]), None);
        assert_eq!(source_port(&[]), None);
        let mut other = frame;
        other[37] = 53;
        assert_eq!(source_port(&other), None);
        frame[12] = 0x86;
        assert_eq!(source_port(&frame), None);
    }

    #[test]
    fn a_range_ends_behind_the_last_port_that_is_taken() {
        assert_eq!(LastPort::Spared.end(60_999), 60_999);
        assert_eq!(LastPort::Taken.end(60_999), 61_000);
        assert_eq!(LastPort::Taken.end(u16::MAX), u16::MAX);
    }
}
