//! Who is at the pins: one at a time, and whether that is a daemon that stays.
//!
//! One at a time says which pods there are and attaches programs to them: the daemon, or the CNI
//! plugin, which may come at any moment and may come many times at once.
//!
//! Without it the daemon, which has looked at the links before a plugin wired a pod, would take
//! what the plugin enters for a leftover, and take it away for a moment.

use std::fs::{File, TryLockError};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::pins::Pins;

/// How long between two tries.
const PAUSE: Duration = Duration::from_millis(2);

/// Held until it is dropped, or its process ends.
#[derive(Debug)]
pub struct PodLock(#[expect(dead_code, reason = "it is locked as long as it is open")] File);

impl PodLock {
    /// Waits for it as long as `patience` says: `None` if somebody else has it all the while.
    pub async fn take(pins: &Pins, patience: Duration) -> io::Result<Option<Self>> {
        let folder = File::open(pins.current())?;
        let last = Instant::now() + patience;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Some(Self(folder))),
                Err(TryLockError::WouldBlock) if Instant::now() < last => sleep(PAUSE).await,
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

/// The daemon's, as long as it has its maps open: a name among the sockets of its network namespace,
/// which goes with the process, and keeps no file of the BPF file system open, which somebody may
/// want to unmount.
#[derive(Debug)]
pub(crate) struct Presence(
    #[expect(dead_code, reason = "it has its name as long as it is open")] UnixDatagram,
);

impl Presence {
    /// Tells everybody who asks; `None` where that cannot be, because another has the name.
    pub(crate) fn announce(pins: &Pins) -> Option<Self> {
        let socket = UnixDatagram::bind_addr(&name(pins).ok()?);
        socket.ok().map(Self)
    }

    /// Whether a daemon is there.
    pub(crate) fn is_announced(pins: &Pins) -> io::Result<bool> {
        match UnixDatagram::unbound()?.connect_addr(&name(pins)?) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// By the pins that it is about. The length of a socket's name has an end.
fn name(pins: &Pins) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(pins.folder().as_os_str().as_bytes())
}
