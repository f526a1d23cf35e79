//! Packets that no honest pod sends: raw sockets inside a namespace.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect,
    send, sendto, socket,
};

use crate::netns::Namespace;

/// A raw IPv4 socket: whole packets, whatever source they claim. The kernel fills in the
/// header checksum and, where it is 0, the identification.
#[derive(Debug)]
pub struct RawIp {
    socket: OwnedFd,
}

impl RawIp {
    /// Opens one inside.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let open = || {
            socket(
                AddressFamily::Inet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Raw,
            )
        };
        let socket = namespace.enter(open)?.context("open a raw socket")?;
        Ok(Self { socket })
    }

    /// Opens one that is connected: every packet that it sends carries the hash of the socket,
    /// whatever addresses are in it.
    pub fn connected(namespace: &Namespace, to: Ipv4Addr) -> Result<Self> {
        let raw = Self::open(namespace)?;
        connect(raw.socket.as_raw_fd(), &address(to)).context("connect a raw socket")?;
        Ok(raw)
    }

    /// Sends a packet to where it says.
    pub fn send(&self, to: Ipv4Addr, packet: &[u8]) -> Result<()> {
        let descriptor = self.socket.as_raw_fd();
        let sent = sendto(descriptor, packet, &address(to), MsgFlags::empty());
        ensure!(sent.context("send a raw packet")? == packet.len());
        Ok(())
    }
}

fn address(ip: Ipv4Addr) -> SockaddrIn {
    std::net::SocketAddrV4::new(ip, 0).into()
}

/// The link-layer address of an interface of the calling thread's namespace.
pub(crate) fn link_address(interface: &str) -> Result<LinkAddr> {
    nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| entry.address)
        .find_map(|address| address.as_link_addr().copied())
        .with_context(|| format!("{interface} has no link address"))
}

/// A packet socket: whole frames on one interface.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
}

impl Frames {
    /// Opens one on an interface inside.
    pub fn on(namespace: &Namespace, interface: &str) -> Result<Self> {
        let open = || -> Result<OwnedFd> {
            let family = AddressFamily::Packet;
            // Protocol 0 receives nothing.
            let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            bind(socket.as_raw_fd(), &link_address(interface)?)?;
            Ok(socket)
        };
        let socket = namespace
            .enter(open)?
            .with_context(|| format!("a packet socket on {interface}"))?;
        Ok(Self { socket })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty());
        ensure!(sent.context("send a frame")? == frame.len());
        Ok(())
    }
}
