//! The maps of the BPF programs, which speak of VTEPs: what they say, and in what order they are
//! written.

mod op;
mod path_mtu;
mod plan;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::subnet::Subnet;
use crate::vtep::RemoteVtep;

pub use self::op::MapOp;
pub use self::path_mtu::{plan_path_mtus, plan_subnet_mtus, subnet_mtus};
pub(crate) use self::plan::MapPlan;

/// The maps' side.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedMaps {
    /// Index of `vteps` → what it says, for active entries.
    pub vteps: BTreeMap<u32, RemoteVtep>,
    /// Index of `vteps` → largest outer packet that the route to it takes, bytes, where one is
    /// said.
    pub path_mtus: BTreeMap<u32, u32>,
    /// Index of `vteps` → largest outer packet for what the routes to its subnets take, bytes,
    /// where one is said.
    pub subnet_mtus: BTreeMap<u32, u32>,
    /// Overlay routes: subnet → index of `vteps`.
    pub routes: BTreeMap<Subnet, u32>,
    /// Underlay address → index of `vteps`.
    pub sources: BTreeMap<IpAddr, u32>,
    /// Entries that `vteps` has.
    pub vtep_capacity: u32,
    /// Entries that the route tables have.
    pub route_capacity: u32,
}
