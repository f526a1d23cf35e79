//! What keeps every packet of the node off the fast path, though all is in order: somebody else's
//! policy on the uplink, and an uplink that packets do not pass.

use twill_abi::Program;
use twill_core::pods::{OurFilters, judge_uplink};
use twill_core::uplink::{Ways, sample};

use super::agent::Agent;
use crate::datapath::place::Interface;

impl Agent {
    /// Looks for qdiscs, filters and programs of others on the uplink.
    pub(super) async fn look_at_policy(&mut self) {
        let uplink = self.state.uplink();
        let uplink = Interface {
            name: uplink.name.clone(),
            ifindex: uplink.ifindex,
        };
        let seen = self.bpf.foreign_programs(std::slice::from_ref(&uplink));
        // Without BPF nothing is fast; a hook that could not be asked says nothing.
        let Some(program) = seen.get(&uplink.ifindex) else {
            return;
        };
        match self
            .netlink
            .traffic_control(&uplink.name, uplink.ifindex)
            .await
        {
            Ok(link) => {
                let ours = OurFilters {
                    priority: self.args.tc_priority,
                    handle: self.args.tc_handle,
                    ingress: Program::FromUplink.label().to_owned(),
                    egress: Program::ToUplink.label().to_owned(),
                };
                let reason = judge_uplink(&link, &ours, program.as_deref());
                self.acceptance
                    .set_policy(reason.map(|reason| reason.to_string()));
            }
            Err(error) => self.failures.add("netlink", &error),
        }
    }

    /// Looks by which interfaces packets to other nodes leave: where that is not the uplink, the
    /// programs there see none of them.
    pub(super) async fn look_at_ways(&mut self) {
        let uplink = self.state.uplink();
        let mut nodes = self.state.elsewhere();
        nodes.retain(|node| ![uplink.address, uplink.public_ip].contains(node));
        match self.netlink.ways(uplink.local, &sample(&nodes)).await {
            Ok(interfaces) => {
                let ways = Ways::of(&uplink.name, &interfaces);
                self.acceptance.set_astray(ways.astray());
                self.sentry.ways = ways;
            }
            Err(error) => self.failures.add("netlink", &error),
        }
    }
}
