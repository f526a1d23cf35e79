//! Somebody else's policy on the uplink: while it is there, no packet goes past it.

use twill_abi::Program;
use twill_core::pods::{OurFilters, judge_uplink};

use super::agent::Agent;
use crate::datapath::hooks::Interface;

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
}
