//! The difference between what is and what should be, as single steps.
//!
//! Removals that free room in a map come first, then peers one by one, each first in the
//! kernel and then in the maps, and last what a peer left behind when it moved: its traffic
//! never meets a gap. A plan may be cut off after any step; the next one finishes it.

mod link;
mod op;
#[cfg(test)]
mod tests;

pub use crate::datapath::{MapOp, plan_path_mtus, plan_subnet_mtus, subnet_mtus};
pub use op::{KernelOp, Op};

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::backend::{EntryPlan, Peer, Wanted};
use crate::datapath::MapPlan;
use crate::desired::{Desired, Ownership};
use crate::observed::Observed;
use crate::peers::Peers;
use crate::state::State;
use crate::subnet::Subnet;
use crate::vtep::MacAddr;

/// Steps, in the order in which to take them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// The steps. An error in one is no reason to leave out the others.
    pub ops: Vec<Op>,
    /// Peers that the maps have no room for: the kernel alone forwards to them.
    pub unmapped: Vec<Subnet>,
}

/// No peer is on a link.
static NOBODY: BTreeMap<IpAddr, u32> = BTreeMap::new();

/// Plans everything.
///
/// Total: peers outside the network and such as contradict a lower subnet's peer are left out.
pub fn plan(observed: &Observed, desired: &Desired) -> Plan {
    let mut peers = Peers::default();
    for (&subnet, &peer) in &desired.peers {
        if is_plannable(desired.network, subnet, peer) {
            // `State` never says anything contradictory; of what others say the lowest holds.
            peers.insert(subnet, peer);
        }
    }
    let wanted = Wanted {
        network: desired.network,
        complete: desired.complete,
        peers: &peers,
        on_link: &observed.kernel.on_link,
    };
    let mut link_ops = Vec::new();
    let kernel = match (desired.ownership, &desired.link) {
        (Ownership::Nothing, _) => None,
        (Ownership::Node, None) => Some(Cow::Borrowed(&observed.kernel)),
        (Ownership::Node, Some(link)) => {
            link::plan(&observed.kernel, link, desired.network, &mut link_ops)
        }
    };
    let mut plan = Plan::default();
    plan.extend(link_ops);
    let mut entries = kernel
        .as_deref()
        .and_then(|kernel| desired.backend.entries(kernel, wanted));
    let mut maps = observed
        .maps
        .as_ref()
        .map(|maps| MapPlan::full(maps, wanted));
    if let Some(maps) = &mut maps {
        plan.ops.extend(maps.early());
    }
    if let Some(entries) = &mut entries {
        entries.remove_stale();
        plan.extend(entries.take());
    }
    for (subnet, peer) in peers.iter() {
        plan.set(subnet, peer, entries.as_deref_mut(), maps.as_mut());
    }
    plan.finish(maps)
}

/// Plans one subnet against the last observation, after a lease event.
///
/// Says for the subnet what [`plan`] would say, in logarithmic time, where the other peers
/// are as they should be. The exception is a map without room: then all maps are planned.
/// While there is no usable device, only maps are: making the device replays every peer.
/// Where the backend asks for ways everything is to be planned: this knows nothing of them.
pub fn plan_peer(observed: &Observed, state: &State, subnet: Subnet) -> Plan {
    let wanted = Wanted {
        network: state.config().network,
        complete: state.is_complete(),
        peers: state.peers(),
        on_link: &NOBODY,
    };
    let usable = match (state.ownership(), state.link()) {
        (Ownership::Nothing, _) => false,
        (Ownership::Node, None) => true,
        (Ownership::Node, Some(link)) => link::is_usable(&observed.kernel, &link),
    };
    let entries = usable
        .then(|| state.config().backend.entries(&observed.kernel, wanted))
        .flatten();
    plan_one(observed, wanted, entries, subnet)
}

fn plan_one(
    observed: &Observed,
    wanted: Wanted<'_>,
    mut entries: Option<Box<dyn EntryPlan + '_>>,
    subnet: Subnet,
) -> Plan {
    let mut plan = Plan::default();
    let mut maps = observed
        .maps
        .as_ref()
        .map(|maps| MapPlan::single(maps, wanted, subnet));
    if let Some(maps) = &mut maps {
        plan.ops.extend(maps.early());
    }
    let peer = wanted.peers.get(subnet);
    if let Some(entries) = &mut entries
        && peer.is_none()
    {
        entries.remove_stale_peer(subnet);
        plan.extend(entries.take());
    }
    if let Some(peer) = peer {
        plan.set(subnet, peer, entries.as_deref_mut(), None);
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
    fn extend(&mut self, ops: Vec<KernelOp>) {
        self.ops.extend(ops.into_iter().map(Op::Kernel));
    }

    fn set(
        &mut self,
        subnet: Subnet,
        peer: Peer,
        entries: Option<&mut (dyn EntryPlan + '_)>,
        maps: Option<&mut MapPlan<'_>>,
    ) {
        if let Some(entries) = entries {
            entries.set(subnet, peer);
            self.extend(entries.take());
        }
        if let Some((maps, vtep)) = maps.zip(peer.vtep()) {
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

fn is_plannable(network: Subnet, subnet: Subnet, peer: Peer) -> bool {
    let ipv4 = matches!(
        (subnet.network(), peer.underlay()),
        (IpAddr::V4(_), IpAddr::V4(_))
    );
    ipv4 && network.covers(subnet) && peer.mac().is_none_or(MacAddr::is_unicast)
}
