//! What an interface receives, whole frames as tcpdump would show them.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use crate::forge::link_address;
use crate::netns::Namespace;

const LARGEST_FRAME: usize = 65_536 + 14;

/// A packet socket that hears everything on one interface.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
}

impl Capture {
    /// Begins to listen; frames wait in the socket from now on.
    pub fn on(namespace: &Namespace, interface: &str) -> Result<Self> {
        let open = || -> Result<OwnedFd> {
            let (family, every) = (AddressFamily::Packet, SockProtocol::EthAll);
            let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, every)?;
            bind(socket.as_raw_fd(), &link_address(interface)?)?;
            Ok(socket)
        };
        let socket = namespace
            .enter(open)?
            .with_context(|| format!("listen on {interface}"))?;
        Ok(Self { socket })
    }

    /// The next frame, if one comes in time.
    pub fn next(&self, patience: Duration) -> Result<Option<Vec<u8>>> {
        let limit = TimeVal::new(
            patience.as_secs().try_into()?,
            patience.subsec_micros().into(),
        );
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &limit)?;
        let mut frame = vec![0; LARGEST_FRAME];
        loop {
            match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => {
                    frame.truncate(length);
                    return Ok(Some(frame));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error).context("receive a frame"),
            }
        }
    }
}
