//! Everything that can happen to the agent.

use crate::lease::Lease;
use crate::subnet::Subnet;
use crate::uplink::Uplink;

/// One thing that happened; sources only send, [`crate::state::State`] alone decides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A lease is there, new or changed.
    LeaseAdded(Lease),
    /// A lease is gone.
    LeaseRemoved(Subnet),
    /// The complete list of leases.
    Resync(Vec<Lease>),
    /// Something about a link, address, route or neighbour entry changed: observe again.
    KernelChanged,
    /// Something about the links of pods changed: look for pods again, and for nothing else.
    PodsChanged,
    /// Another uplink, or the same with other properties.
    UplinkChanged(Uplink),
    /// Time to observe everything again.
    Tick,
    /// Stop, and leave the datapath forwarding.
    Shutdown,
}
