//! Everything that can happen to the agent.

use crate::leases::StoreEvent;
use crate::subnet::Subnet;

/// One thing that happened; sources only send, [`crate::state::State`] alone decides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The lease store said something, or is not heard.
    Store(StoreEvent),
    /// Something about a link, address, route or neighbour entry changed: observe again.
    KernelChanged,
    /// Something about the links of pods changed: look for pods again, and for nothing else.
    PodsChanged,
}

impl From<StoreEvent> for Event {
    fn from(event: StoreEvent) -> Self {
        Self::Store(event)
    }
}

/// What has to be planned after an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// One peer: [`crate::plan::plan_peer`] against the last observation.
    Peer(Subnet),
    /// Observe again, then [`crate::plan::plan`].
    Everything,
}

impl Change {
    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, change) | (change, Self::Nothing) => change,
            (Self::Peer(one), Self::Peer(two)) if one == two => self,
            _ => Self::Everything,
        }
    }
}
