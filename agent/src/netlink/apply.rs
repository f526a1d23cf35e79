//! Carrying out a plan's steps: in order, many in one datagram, none stopped by another's error.

use nix::errno::Errno;
use twill_core::desired::Device;
use twill_core::plan::KernelOp;

use super::error::{Error, Failure};
use super::said::{Fact, Said, Subject};
use super::socket::{Request, Socket};
use super::{addr, link, neigh, route};

/// Carries out all of `ops` on `device`, which need not exist if the first of them creates it.
pub(super) async fn apply(
    socket: &mut Socket,
    said: &Said,
    device: &str,
    ops: &[KernelOp],
) -> Vec<(KernelOp, Error)> {
    let mut errors = Vec::new();
    let mut run = Run {
        socket,
        said,
        device,
    };
    // Creation and removal give the name another interface index: they stand alone, and what
    // is between them goes out together.
    for ops in ops.chunk_by(|one, next| !changes_index(one) && !changes_index(next)) {
        match ops {
            [op] if changes_index(op) => {
                errors.extend(
                    run.change_device(op)
                        .await
                        .err()
                        .map(|error| (op.clone(), error)),
                );
            }
            _ => run.configure_device(ops, &mut errors).await,
        }
    }
    errors
}

fn changes_index(op: &KernelOp) -> bool {
    matches!(
        op,
        KernelOp::CreateDevice(_) | KernelOp::RemoveDevice { .. }
    )
}

struct Run<'a> {
    socket: &'a mut Socket,
    said: &'a Said,
    device: &'a str,
}

impl Run<'_> {
    async fn change_device(&mut self, op: &KernelOp) -> Result<(), Error> {
        self.said.forget_all();
        // Neither needs the present index.
        let request = request(op, 0, self.said);
        let outcome = self.socket.batch(&[request]).await.pop();
        let outcome = outcome.unwrap_or(Ok(()));
        match (op, outcome) {
            (KernelOp::CreateDevice(device), Ok(())) => {
                link::refuse_router_advertisements(&device.name);
                Ok(())
            }
            (KernelOp::CreateDevice(device), Err(failure))
                if failure.refusal() == Some(Errno::EEXIST) =>
            {
                Err(self.why_exists(device, failure).await)
            }
            (_, outcome) => settle(op, outcome, self.device).map_or(Ok(()), Err),
        }
    }

    /// `EEXIST` has two causes: the name, and VNI and port together.
    async fn why_exists(&mut self, device: &Device, source: Failure) -> Error {
        let holder = link::vxlan_devices(self.socket)
            .await
            .ok()
            .and_then(|devices| {
                devices.into_iter().find(|other| {
                    other.name != device.name
                        && other.vni == device.vni.get()
                        && device.port.is_none_or(|port| port == other.port)
                })
            });
        match holder {
            Some(holder) => Error::VniInUse {
                device: device.name.clone(),
                vni: holder.vni,
                port: holder.port,
                holder: holder.name,
            },
            None => Error::CreateDevice {
                device: device.name.clone(),
                source,
            },
        }
    }

    async fn configure_device(&mut self, ops: &[KernelOp], errors: &mut Vec<(KernelOp, Error)>) {
        let ifindex = match link::by_name(self.socket, self.device).await {
            Ok(Some(link)) => link.device.ifindex,
            Ok(None) => {
                // Without the device there is nothing left on it to remove.
                let set = ops.iter().filter(|op| !is_removal(op));
                let device = self.device;
                errors.extend(set.map(|op| {
                    (
                        op.clone(),
                        Error::NoDevice {
                            device: device.to_owned(),
                        },
                    )
                }));
                return;
            }
            Err(source) => {
                let device = self.device;
                errors.extend(ops.iter().map(|op| {
                    let source = source.clone();
                    (
                        op.clone(),
                        Error::FindDevice {
                            device: device.to_owned(),
                            source,
                        },
                    )
                }));
                return;
            }
        };
        let requests: Vec<Request> = ops
            .iter()
            .map(|op| request(op, ifindex, self.said))
            .collect();
        let outcomes = self.socket.batch(&requests).await;
        for (op, outcome) in ops.iter().zip(outcomes) {
            if outcome.is_err() {
                take_back(op, self.said);
            }
            errors.extend(settle(op, outcome, self.device).map(|error| (op.clone(), error)));
        }
    }
}

fn is_removal(op: &KernelOp) -> bool {
    match op {
        KernelOp::RemoveDevice { .. }
        | KernelOp::RemoveAddress(_)
        | KernelOp::RemoveNeighbor { .. }
        | KernelOp::RemoveFdb { .. }
        | KernelOp::RemoveRoute { .. }
        | KernelOp::RemoveDirectRoute { .. } => true,
        KernelOp::CreateDevice(_)
        | KernelOp::SetMtu(_)
        | KernelOp::SetUp
        | KernelOp::AddAddress(_)
        | KernelOp::SetNeighbor { .. }
        | KernelOp::SetFdb { .. }
        | KernelOp::SetRoute { .. }
        | KernelOp::SetDirectRoute { .. } => false,
    }
}

fn request(op: &KernelOp, ifindex: u32, said: &Said) -> Request {
    match *op {
        KernelOp::CreateDevice(ref device) => link::create(device),
        KernelOp::RemoveDevice { ifindex } => link::remove(ifindex),
        KernelOp::SetMtu(mtu) => link::set_mtu(ifindex, mtu),
        KernelOp::SetUp => link::set_up(ifindex),
        KernelOp::AddAddress(address) => addr::add(ifindex, address),
        KernelOp::RemoveAddress(address) => addr::remove(ifindex, address),
        KernelOp::SetNeighbor { address, mac } => {
            said.take_back(Subject::Neighbor(address));
            neigh::set_neighbor(ifindex, address, mac)
        }
        KernelOp::RemoveNeighbor { address } => {
            said.say(Fact::NoNeighbor(address));
            neigh::remove_neighbor(ifindex, address)
        }
        KernelOp::SetFdb { mac, underlay } => {
            said.say(Fact::Fdb(mac, underlay));
            neigh::set_fdb(ifindex, mac, underlay)
        }
        KernelOp::RemoveFdb { mac, underlay } => {
            said.say(Fact::NoFdb(mac, underlay));
            neigh::remove_fdb(ifindex, mac, underlay)
        }
        KernelOp::SetRoute { subnet, gateway } => route::set(ifindex, subnet, gateway.into()),
        KernelOp::RemoveRoute { subnet } => route::remove(ifindex, subnet),
        KernelOp::SetDirectRoute { subnet, gateway } => route::set_direct(subnet, gateway.into()),
        KernelOp::RemoveDirectRoute { subnet, gateway } => {
            route::remove_direct(subnet, gateway.into())
        }
    }
}

/// No notification comes of what the kernel did not do.
fn take_back(op: &KernelOp, said: &Said) {
    match *op {
        KernelOp::SetFdb { mac, .. } | KernelOp::RemoveFdb { mac, .. } => {
            said.take_back(Subject::Fdb(mac));
        }
        KernelOp::RemoveNeighbor { address } => said.take_back(Subject::Neighbor(address)),
        KernelOp::CreateDevice(_)
        | KernelOp::RemoveDevice { .. }
        | KernelOp::SetMtu(_)
        | KernelOp::SetUp
        | KernelOp::AddAddress(_)
        | KernelOp::RemoveAddress(_)
        | KernelOp::SetNeighbor { .. }
        | KernelOp::SetRoute { .. }
        | KernelOp::RemoveRoute { .. }
        | KernelOp::SetDirectRoute { .. }
        | KernelOp::RemoveDirectRoute { .. } => {}
    }
}

/// The error of a step, unless what it wanted is so.
fn settle(op: &KernelOp, outcome: Result<(), Failure>, device: &str) -> Option<Error> {
    let source = outcome.err()?;
    let refusal = source.refusal();
    if is_removal(op) && refusal.is_some_and(says_gone) {
        return None;
    }
    let device = device.to_owned();
    Some(match *op {
        KernelOp::AddAddress(_) if refusal == Some(Errno::EEXIST) => return None,
        KernelOp::SetUp if refusal == Some(Errno::EADDRINUSE) => Error::PortInUse { device },
        KernelOp::CreateDevice(_) => Error::CreateDevice { device, source },
        KernelOp::RemoveDevice { ifindex } => Error::RemoveDevice {
            device,
            ifindex,
            source,
        },
        KernelOp::SetDirectRoute { subnet, gateway } => Error::SetDirectRoute {
            subnet,
            gateway,
            source,
        },
        KernelOp::RemoveDirectRoute { subnet, gateway } => Error::RemoveDirectRoute {
            subnet,
            gateway,
            source,
        },
        KernelOp::SetMtu(mtu) => Error::SetMtu {
            device,
            mtu,
            source,
        },
        KernelOp::SetUp => Error::SetUp { device, source },
        KernelOp::AddAddress(address) => Error::AddAddress {
            device,
            address,
            source,
        },
        KernelOp::RemoveAddress(address) => Error::RemoveAddress {
            device,
            address,
            source,
        },
        KernelOp::SetNeighbor { address, mac } => Error::SetNeighbor {
            device,
            address,
            mac,
            source,
        },
        KernelOp::RemoveNeighbor { address } => Error::RemoveNeighbor {
            device,
            address,
            source,
        },
        KernelOp::SetFdb { mac, underlay } => Error::SetFdb {
            device,
            mac,
            underlay,
            source,
        },
        KernelOp::RemoveFdb { mac, underlay } => Error::RemoveFdb {
            device,
            mac,
            underlay,
            source,
        },
        KernelOp::SetRoute { subnet, gateway } => Error::SetRoute {
            device,
            subnet,
            gateway: gateway.into(),
            source,
        },
        KernelOp::RemoveRoute { subnet } => Error::RemoveRoute {
            device,
            subnet,
            source,
        },
    })
}

/// Neighbours and FDB entries say `ENOENT`, routes `ESRCH`, addresses `EADDRNOTAVAIL`, links
/// `ENODEV`.
fn says_gone(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENODEV
    )
}
