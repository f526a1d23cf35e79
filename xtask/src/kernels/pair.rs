//! Two guests on one wire: a bridge with a tap device for each NIC, in a network namespace that
//! has no name and is gone with this process and QEMU.
//!
//! Tap devices and not QEMU's sockets, for only with them does virtio-net offer its offloads:
//! packets of 64 KiB and unfinished checksums cross from one guest to the other.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, unshare};

use super::part::Role;
use super::qemu::Nic;
use crate::process;

/// Tells tests which side they are, by one of [`SIDES`].
pub(super) const SIDE: &str = "TWILL_SIDE";
/// The sides, the first of which the tests' lease server is beside.
pub(super) const SIDES: [&str; 2] = ["a", "b"];
/// What this machine's netfilter would see of the wire.
const NETFILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// The NICs of a guest: two on one side of the wire. `tests/tiers/kernels/pair` knows them by
/// their MAC addresses, for the order in which a guest finds them is its own.
pub(super) fn nics(role: Role) -> Vec<Nic> {
    let Some(side) = role.side() else {
        return Vec::new();
    };
    let last = if side == SIDES[0] { 1 } else { 2 };
    ["uplink", "control"]
        .iter()
        .zip(0..)
        .map(|(purpose, number)| Nic {
            tap: format!("{purpose}-{side}"),
            mac: format!("02:00:c0:00:{:02x}:{last:02x}", 2 + number),
        })
        .collect()
}

/// Runs `guest` for both sides at the same time, on one wire, and gives what they gave.
pub(super) fn run<T: Send>(guest: impl Fn(Role) -> Result<T> + Sync) -> Result<Vec<T>> {
    let roles = SIDES.map(Role::Side);
    thread::scope(|scope| {
        // The namespace is this thread's and of those that it starts. It stays until both are
        // done, for QEMU is killed with the thread that started it.
        let both = scope.spawn(|| -> Result<Vec<T>> {
            wire(&roles)?;
            let guest = &guest;
            thread::scope(|scope| {
                let sides: Vec<_> = roles
                    .iter()
                    .map(|&role| scope.spawn(move || guest(role)))
                    .collect();
                let ended = sides.into_iter().map(|side| match side.join() {
                    Ok(result) => result,
                    Err(_) => bail!("a thread that looks after a guest panicked"),
                });
                ended.collect::<Vec<_>>().into_iter().collect()
            })
        });
        match both.join() {
            Ok(result) => result,
            Err(_) => bail!("the thread that looks after two guests panicked"),
        }
    })
}

/// Moves the calling thread into a new network namespace, and makes the wire there.
fn wire(roles: &[Role]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace for two guests")?;
    if Path::new(NETFILTER).exists() {
        fs::write(NETFILTER, "0").with_context(|| format!("write to {NETFILTER}"))?;
    }
    ip("link add name wire type bridge")?;
    ip("link set dev wire up")?;
    for nic in roles.iter().flat_map(|&role| nics(role)) {
        let tap = &nic.tap;
        ip(&format!("tuntap add dev {tap} mode tap"))?;
        ip(&format!("link set dev {tap} master wire up"))?;
    }
    Ok(())
}

fn ip(words: &str) -> Result<()> {
    process::run(Command::new("ip").args(words.split(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_nics_are_the_same() {
        let [a, b] = SIDES.map(|side| nics(Role::Side(side)));
        let macs: Vec<&str> = a.iter().chain(&b).map(|nic| nic.mac.as_str()).collect();
        assert_eq!(
            macs,
            [
                "02:00:c0:00:02:01",
                "02:00:c0:00:03:01",
                "02:00:c0:00:02:02",
                "02:00:c0:00:03:02"
            ]
        );
        // The kernel takes fifteen bytes.
        assert!(a.iter().chain(&b).all(|nic| nic.tap.len() < 16));
        assert!(nics(Role::Alone).is_empty());
    }
}
