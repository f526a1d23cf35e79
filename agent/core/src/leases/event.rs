//! What a store says.

use crate::lease::Lease;
use crate::subnet::Subnet;

/// Where a store's changes have come to. What it means, its store alone knows: nobody else
/// compares two.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Position(Box<str>);

impl Position {
    /// As its store writes it.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Every lease of a store at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listing {
    /// The moment.
    pub position: Position,
    /// Whether the store is another one than before, or was set back: that it lacks a lease says
    /// nothing then.
    pub replaced: bool,
    /// Every lease that could be read.
    pub leases: Vec<Lease>,
    /// The subnets of the others, which stay as they were; `None` for one that may be any of those
    /// that are missing.
    pub unread: Vec<Option<Subnet>>,
}

/// One thing that a store says, in the order in which it happened there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreEvent {
    /// These are all leases. Always the first, and the first after changes may have been missed.
    Listed(Listing),
    /// A lease is there, new or changed.
    Put(Lease),
    /// A lease is gone.
    Gone(Subnet),
    /// Everything up to here has been said, and the next change will be.
    Reached(Position),
    /// Why the next change would not be said.
    Lost(String),
}
