//! The difference between what is and what should be, as single steps.
//!
//! Removals that free room in a map come first, then peers one by one, each first in the
//! kernel and then in the maps, and last what a peer left behind when it moved: its traffic
//! never meets a gap. A plan may be cut off after any step; the next one finishes it.

mod device;
mod kernel;
mod maps;
mod op;
mod path_mtu;
#[cfg(test)]
mod tests;

pub use op::{KernelOp, MapOp, Op};
pub use path_mtu::plan_path_mtus;

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::desired::Desired;
use crate::observed::{Observed, ObservedKernel};
use crate::peers::Peers;
use crate::plan::kernel::KernelPlan;
use crate::plan::maps::MapPlan;
use crate::state::State;
use crate::subnet::Subnet;
use crate::vtep::RemoteVtep;

/// Steps, in the order in which to take them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// The steps. An error in one is no reason to leave out the others.
    pub ops: Vec<Op>,
    /// Peers that the maps have no room for: the kernel alone forwards to them.
    pub unmapped: Vec<Subnet>,
}

/// What planning looks at on the desired side.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    network: Subnet,
    complete: bool,
    peers: &'a Peers,
    /// Underlay addresses of peers that packets reach without encap.
    direct: &'a BTreeSet<IpAddr>,
}

impl Wanted<'_> {
    /// Whether packets to this VTEP go past the device. In the kernel everything else is as for
    /// other peers, so that only the route has to change when the way does.
    fn is_direct(self, vtep: RemoteVtep) -> bool {
        self.direct.contains(&vtep.underlay)
    }
}

/// No peer is direct.
static NOBODY: BTreeSet<IpAddr> = BTreeSet::new();

/// Plans everything.
///
/// Total: peers outside the network and such as contradict a lower subnet's peer are left out.
pub fn plan(observed: &Observed, desired: &Desired) -> Plan {
    let mut peers = Peers::default();
    for (&subnet, &vtep) in &desired.peers {
        if is_plannable(desired.network, subnet, vtep) {
            // `State` never says anything contradictory; of what others say the lowest holds.
            peers.insert(subnet, vtep);
        }
    }
    let wanted = Wanted {
        network: desired.network,
        complete: desired.complete,
        peers: &peers,
        direct: &observed.kernel.on_link,
    };
    let mut kernel_ops = Vec::new();
    let empty = ObservedKernel::default();
    let kernel = match device::plan(&observed.kernel, desired, &mut kernel_ops) {
        device::Outcome::Kept => Some(&observed.kernel),
        device::Outcome::New => Some(&empty),
        device::Outcome::Blocked => None,
    };
    let mut plan = Plan {
        ops: kernel_ops.into_iter().map(Op::Kernel).collect(),
        unmapped: Vec::new(),
    };
    let mut kernel = kernel.map(|kernel| KernelPlan::new(kernel, wanted));
    let mut maps = observed
        .maps
        .as_ref()
        .map(|maps| MapPlan::full(maps, wanted));
    if let Some(maps) = &mut maps {
        plan.ops.extend(maps.early());
    }
    if let Some(kernel) = &mut kernel {
        kernel.remove_stale();
        plan.ops.extend(kernel.take());
    }
    for (subnet, vtep) in peers.iter() {
        plan.set(subnet, vtep, kernel.as_mut(), maps.as_mut());
    }
    plan.finish(maps)
}

/// Plans one subnet against the last observation, after a lease event.
///
/// Says for the subnet what [`plan`] would say, in logarithmic time, where the other peers
/// are as they should be. The exception is a map without room: then all maps are planned.
/// While there is no usable device, only maps are: making the device replays every peer.
/// With `DirectRouting` everything is to be planned: this knows nothing of it.
pub fn plan_peer(observed: &Observed, state: &State, subnet: Subnet) -> Plan {
    let wanted = Wanted {
        network: state.config().network,
        complete: state.is_complete(),
        peers: state.peers(),
        direct: &NOBODY,
    };
    let usable = device::is_usable(&observed.kernel, &state.device());
    plan_one(observed, wanted, usable, subnet)
}

fn plan_one(observed: &Observed, wanted: Wanted<'_>, usable: bool, subnet: Subnet) -> Plan {
    let mut plan = Plan::default();
    let mut kernel = usable.then(|| KernelPlan::new(&observed.kernel, wanted));
    let mut maps = observed
        .maps
        .as_ref()
        .map(|maps| MapPlan::single(maps, wanted, subnet));
    if let Some(maps) = &mut maps {
        plan.ops.extend(maps.early());
    }
    let peer = wanted.peers.get(subnet);
    if let Some(kernel) = &mut kernel
        && peer.is_none()
    {
        kernel.remove_stale_peer(subnet);
        plan.ops.extend(kernel.take());
    }
    if let Some(vtep) = peer {
        plan.set(subnet, vtep, kernel.as_mut(), None);
    }
    if let Some(maps) = &mut maps {
        let peers = maps.peers();
        plan.ops.extend(
            peers
                .into_iter()
                .flat_map(|(subnet, vtep)| maps.set(subnet, vtep)),
        );
    }
    plan.finish(maps)
}

impl Plan {
    fn set(
        &mut self,
        subnet: Subnet,
        vtep: RemoteVtep,
        kernel: Option<&mut KernelPlan<'_>>,
        maps: Option<&mut MapPlan<'_>>,
    ) {
        if let Some(kernel) = kernel {
            kernel.set(subnet, vtep);
            self.ops.extend(kernel.take());
        }
        if let Some(maps) = maps {
            self.ops.extend(maps.set(subnet, vtep));
        }
    }

    fn finish(mut self, maps: Option<MapPlan<'_>>) -> Self {
        if let Some(maps) = maps {
            let (late, unmapped) = maps.finish();
            self.ops.extend(late);
            self.unmapped = unmapped;
        }
        self
    }
}

fn is_plannable(network: Subnet, subnet: Subnet, vtep: RemoteVtep) -> bool {
    let ipv4 = matches!(
        (subnet.network(), vtep.underlay),
        (IpAddr::V4(_), IpAddr::V4(_))
    );
    ipv4 && network.covers(subnet) && vtep.mac.is_unicast()
}
