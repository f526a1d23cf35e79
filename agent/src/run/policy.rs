//! What keeps every packet of the node off the fast path, though all is in order: somebody else's
//! policy on the uplink or on the overlay's device, and an uplink that packets do not pass.

use twill_abi::Program;
use twill_core::pods::{HostLink, NeverFast, OurFilters, judge_overlay, judge_uplink};
use twill_core::uplink::{Ways, sample};

use super::agent::Agent;
use crate::datapath::place::Interface;

impl Agent {
    /// Looks for qdiscs, filters and programs of others on the uplink and on the overlay's device.
    pub(super) async fn look_at_policy(&mut self) {
        let uplink = self.state.uplink();
        let uplink = Interface {
            name: uplink.name.clone(),
            ifindex: uplink.ifindex,
        };
        let ours = |ingress: Option<Program>, egress: Program| OurFilters {
            priority: self.args.tc_priority,
            handle: self.args.tc_handle,
            // Nothing of ours is there, and a program has a name.
            ingress: ingress.map_or("", Program::label).to_owned(),
            egress: egress.label().to_owned(),
        };
        let at_uplink = ours(Some(Program::FromUplink), Program::ToUplink);
        let at_overlay = ours(None, Program::ToOverlay);
        if let Some(reason) = self.policy_on(&uplink, &at_uplink, judge_uplink).await {
            self.acceptance.set_policy(reason);
        }
        let name = self.state.config().backend.link_name();
        let device = name.and_then(|name| {
            let ifindex = self.observed.kernel.links.get(&name)?.device.ifindex;
            let name = name.to_string();
            Some(Interface { name, ifindex })
        });
        if let Some(device) = device
            && let Some(reason) = self.policy_on(&device, &at_overlay, judge_overlay).await
        {
            self.acceptance.set_overlay_policy(reason);
        }
    }

    /// What is on an interface that packets must not skip, if that could be looked at.
    async fn policy_on(
        &mut self,
        interface: &Interface,
        ours: &OurFilters,
        judge: fn(&HostLink, &OurFilters, Option<&str>) -> Option<NeverFast>,
    ) -> Option<Option<String>> {
        let seen = self.bpf.foreign_programs(std::slice::from_ref(interface));
        // Without BPF nothing is fast; a hook that could not be asked says nothing.
        let program = seen.get(&interface.ifindex)?;
        let looked = self
            .netlink
            .traffic_control(&interface.name, interface.ifindex);
        match looked.await {
            Ok(link) => {
                let reason = judge(&link, ours, program.as_deref());
                Some(reason.map(|reason| reason.to_string()))
            }
            Err(error) => {
                self.failures.add("netlink", &error);
                None
            }
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
