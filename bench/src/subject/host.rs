//! The nodes' own network: what an overlay could reach at best.

use anyhow::Result;
use twill_testbed::topology::Node;
use twill_testbed::world::POD_B1;

use super::Network;
use crate::case::Target;
use crate::load::{Ends, Place};
use crate::topology::{self, Setup};

pub(super) struct Host {
    nodes: [Node; 2],
}

impl Host {
    pub(super) fn new(setup: Setup) -> Result<Self> {
        let (_, nodes) = topology::nodes(setup)?;
        let [a, b] = &nodes;
        // The same rules as on every other node: connection tracking is part of a node.
        topology::add_services([a, b], POD_B1, setup)?;
        Ok(Self { nodes })
    }
}

impl Network for Host {
    fn ends(&self, _target: Target) -> Ends<'_> {
        let [a, b] = &self.nodes;
        Ends {
            client: Place::Inside(a.namespace()),
            server: Place::Inside(b.namespace()),
            to: b.address(),
        }
    }
}
