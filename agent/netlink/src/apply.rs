//! Carrying out a plan's steps: in order, many in one datagram, none stopped by another's error.

use std::collections::BTreeMap;

use nix::errno::Errno;
use twill_core::backend::{Entry, LinkKind, LinkName, LinkSpec, Out, Route};
use twill_core::plan::KernelOp;

use super::error::{Error, Failure};
use super::said::{Fact, Said, Subject};
use super::socket::{Request, Socket};
use super::{addr, link, neigh, route};

/// Carries out all of `ops`. The links that they name need not exist if one of them creates it.
pub(super) async fn apply(
    socket: &mut Socket,
    said: &Said,
    ops: &[KernelOp],
) -> Vec<(KernelOp, Error)> {
    let mut errors = Vec::new();
    let mut run = Run { socket, said };
    // Creation and removal give the name another interface index: they stand alone, and what
    // is between them goes out together.
    for ops in ops.chunk_by(|one, next| !changes_index(one) && !changes_index(next)) {
        match ops {
            [op @ KernelOp::Create(spec)] => {
                let created = run.create(op, spec).await;
                errors.extend(created.err().map(|error| (op.clone(), error)));
            }
            &[ref op @ KernelOp::Remove { ifindex, .. }] => {
                let removed = run.remove(op, ifindex).await;
                errors.extend(removed.err().map(|error| (op.clone(), error)));
            }
            _ => run.configure(ops, &mut errors).await,
        }
    }
    errors
}

fn changes_index(op: &KernelOp) -> bool {
    matches!(op, KernelOp::Create(_) | KernelOp::Remove { .. })
}

struct Run<'a> {
    socket: &'a mut Socket,
    said: &'a Said,
}

/// Interface indices by name; `None` where there is no such link.
type Indices<'a> = BTreeMap<&'a LinkName, Result<Option<u32>, Failure>>;

impl Run<'_> {
    async fn create(&mut self, op: &KernelOp, spec: &LinkSpec) -> Result<(), Error> {
        self.said.forget_all();
        let outcome = self.socket.batch(&[link::create(spec)]).await.pop();
        match outcome.unwrap_or(Ok(())) {
            Ok(()) => {
                link::refuse_router_advertisements(spec.name.as_str());
                Ok(())
            }
            Err(failure) if failure.refusal() == Some(Errno::EEXIST) => {
                Err(self.why_exists(op, spec, failure).await)
            }
            outcome @ Err(_) => settle(op, outcome),
        }
    }

    async fn remove(&mut self, op: &KernelOp, ifindex: u32) -> Result<(), Error> {
        self.said.forget_all();
        let outcome = self.socket.batch(&[link::remove(ifindex)]).await.pop();
        settle(op, outcome.unwrap_or(Ok(())))
    }

    /// `EEXIST` has two causes: the name, and VNI and port together.
    async fn why_exists(&mut self, op: &KernelOp, spec: &LinkSpec, source: Failure) -> Error {
        let LinkKind::Vxlan(vxlan) = &spec.kind;
        let holder = link::vxlan_devices(self.socket)
            .await
            .ok()
            .and_then(|devices| {
                devices.into_iter().find(|other| {
                    other.name != spec.name.as_str()
                        && other.vni == vxlan.vni.get()
                        && vxlan.port.is_none_or(|port| port == other.port)
                })
            });
        match holder {
            Some(holder) => Error::VniInUse {
                device: spec.name.to_string(),
                vni: holder.vni,
                port: holder.port,
                holder: holder.name,
            },
            None => failed(op, source),
        }
    }

    async fn configure(&mut self, ops: &[KernelOp], errors: &mut Vec<(KernelOp, Error)>) {
        let indices = self.indices(ops).await;
        let mut sent = Vec::with_capacity(ops.len());
        let mut requests: Vec<Request> = Vec::with_capacity(ops.len());
        for op in ops {
            match index(&indices, op) {
                Ok(Some(ifindex)) => {
                    requests.extend(request(op, ifindex, self.said));
                    sent.push(op);
                }
                // Without the link there is nothing left on it to remove.
                Ok(None) => {}
                Err(error) => errors.push((op.clone(), error)),
            }
        }
        let outcomes = self.socket.batch(&requests).await;
        for (op, outcome) in sent.into_iter().zip(outcomes) {
            if outcome.is_err() {
                take_back(op, self.said);
            }
            errors.extend(settle(op, outcome).err().map(|error| (op.clone(), error)));
        }
    }

    /// Looks for every link that is named.
    async fn indices<'a>(&mut self, ops: &'a [KernelOp]) -> Indices<'a> {
        let mut indices = Indices::new();
        for name in ops.iter().filter_map(KernelOp::link) {
            if !indices.contains_key(name) {
                let found = link::by_name(self.socket, name.as_str()).await;
                indices.insert(name, found.map(|link| Some(link?.device.ifindex)));
            }
        }
        indices
    }
}

/// The index of the link that a step is about, 0 where it is about none. `None`: the link is gone,
/// and so is what was to be removed.
fn index(indices: &Indices<'_>, op: &KernelOp) -> Result<Option<u32>, Error> {
    let Some(name) = op.link() else {
        return Ok(Some(0));
    };
    match indices.get(name) {
        Some(Ok(Some(ifindex))) => Ok(Some(*ifindex)),
        Some(Err(source)) => Err(Error::FindDevice {
            device: name.to_string(),
            source: source.clone(),
        }),
        Some(Ok(None)) | None if op.is_removal() => Ok(None),
        Some(Ok(None)) | None => Err(Error::NoDevice {
            device: name.to_string(),
        }),
    }
}

/// What to ask the kernel for; `ifindex` is that of the link that the step is about.
fn request(op: &KernelOp, ifindex: u32, said: &Said) -> Option<Request> {
    Some(match *op {
        // These stand alone.
        KernelOp::Create(_) | KernelOp::Remove { .. } => return None,
        KernelOp::SetMtu { mtu, .. } => link::set_mtu(ifindex, mtu),
        KernelOp::SetUp(_) => link::set_up(ifindex),
        KernelOp::AddAddress { address, .. } => addr::add(ifindex, address),
        KernelOp::RemoveAddress { address, .. } => addr::remove(ifindex, address),
        KernelOp::Set(ref entry) => set(entry, ifindex, said),
        KernelOp::Unset(ref entry) => unset(entry, ifindex, said),
    })
}

fn set(entry: &Entry, ifindex: u32, said: &Said) -> Request {
    match *entry {
        Entry::Neighbor { address, mac, .. } => {
            said.take_back(Subject::Neighbor(address));
            neigh::set_neighbor(ifindex, address, mac)
        }
        Entry::Fdb { mac, underlay, .. } => {
            said.say(Fact::Fdb(mac, underlay));
            neigh::set_fdb(ifindex, mac, underlay)
        }
        Entry::Route(Route {
            subnet,
            via,
            ref out,
        }) => match *out {
            Out::Overlay(_) => route::set(ifindex, subnet, via),
            Out::Underlay { ifindex } => route::set_direct(ifindex, subnet, via),
        },
    }
}

fn unset(entry: &Entry, ifindex: u32, said: &Said) -> Request {
    match *entry {
        Entry::Neighbor { address, .. } => {
            said.say(Fact::NoNeighbor(address));
            neigh::remove_neighbor(ifindex, address)
        }
        Entry::Fdb { mac, underlay, .. } => {
            said.say(Fact::NoFdb(mac, underlay));
            neigh::remove_fdb(ifindex, mac, underlay)
        }
        Entry::Route(Route {
            subnet,
            via,
            ref out,
        }) => match *out {
            Out::Overlay(_) => route::remove(ifindex, subnet),
            Out::Underlay { ifindex } => route::remove_direct(ifindex, subnet, via),
        },
    }
}

/// No notification comes of what the kernel did not do.
fn take_back(op: &KernelOp, said: &Said) {
    match *op {
        KernelOp::Set(Entry::Fdb { mac, .. }) | KernelOp::Unset(Entry::Fdb { mac, .. }) => {
            said.take_back(Subject::Fdb(mac));
        }
        KernelOp::Unset(Entry::Neighbor { address, .. }) => {
            said.take_back(Subject::Neighbor(address));
        }
        KernelOp::Create(_)
        | KernelOp::Remove { .. }
        | KernelOp::SetMtu { .. }
        | KernelOp::SetUp(_)
        | KernelOp::AddAddress { .. }
        | KernelOp::RemoveAddress { .. }
        | KernelOp::Set(_)
        | KernelOp::Unset(Entry::Route(_)) => {}
    }
}

/// The error of a step, unless what it wanted is so.
fn settle(op: &KernelOp, outcome: Result<(), Failure>) -> Result<(), Error> {
    let Err(source) = outcome else {
        return Ok(());
    };
    let refusal = source.refusal();
    if op.is_removal() && refusal.is_some_and(says_gone) {
        return Ok(());
    }
    match op {
        KernelOp::AddAddress { .. } if refusal == Some(Errno::EEXIST) => Ok(()),
        KernelOp::SetUp(link) if refusal == Some(Errno::EADDRINUSE) => Err(Error::PortInUse {
            device: link.to_string(),
        }),
        _ => Err(failed(op, source)),
    }
}

fn failed(op: &KernelOp, source: Failure) -> Error {
    Error::Op {
        op: Box::new(op.clone()),
        source,
    }
}

/// Neighbours and FDB entries say `ENOENT`, routes `ESRCH`, addresses `EADDRNOTAVAIL`, links
/// `ENODEV`.
fn says_gone(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENODEV
    )
}
