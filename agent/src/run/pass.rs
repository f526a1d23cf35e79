//! One pass: look, plan, carry out, attach, tell.

use std::collections::BTreeSet;

use tracing::{debug, info, warn};
use twill_abi::Mode;
use twill_core::desired::Desired;
use twill_core::event::Event;
use twill_core::lease::LeaseAttrs;
use twill_core::observed::ObservedDevice;
use twill_core::plan::{KernelOp, Op};
use twill_core::subnet::Subnet;
use twill_core::subnet_env::SubnetEnv;
use twill_core::uplink::Uplink;

use super::agent::{Agent, Batch, Look};
use super::report::Outcome;
use crate::datapath::hooks::{Interface, Interfaces};
use crate::datapath::settings::Settings;
use crate::files::{host, subnet_env};
use crate::netlink::monitor::Monitor;

impl Agent {
    /// Makes the node what it should be, as far as `batch` says that it may not be.
    pub(super) async fn pass(&mut self, batch: Batch, monitor: &Monitor) {
        self.failures.begin();
        if batch.look > Look::Nowhere {
            self.look_for_uplink().await;
            monitor.watch_uplink(Some(self.uplink.ifindex));
        }
        if batch.look == Look::Everywhere {
            self.bpf.load(&mut self.failures);
        }
        let desired = self.reconcile(batch.look, &batch.subnets).await;
        if batch.look == Look::Everywhere || self.device_changed() {
            self.tell_programs(&desired).await;
        }
        self.tell_plugins(&desired);
        self.tell_people(&desired);
    }

    /// Observes, plans and carries out; gives what was wanted.
    pub(super) async fn reconcile(&mut self, look: Look, subnets: &BTreeSet<Subnet>) -> Desired {
        let desired = self.state.desired();
        if look >= Look::Kernel {
            let device = &desired.device.name;
            match self.netlink.observe(device, desired.network).await {
                Ok(kernel) => self.observed.kernel = kernel,
                Err(error) => {
                    // Planning against what is not known would do harm.
                    self.failures.add("netlink", &error);
                    return desired;
                }
            }
        }
        if look == Look::Everywhere {
            self.observed.maps = self.bpf.observe(&mut self.failures);
        }
        let ops = if look == Look::Nowhere {
            self.plan_subnets(&desired, subnets)
        } else {
            self.plan_all(&desired)
        };
        self.carry_out(&desired.device.name, &ops).await;
        self.look_at_device(&desired.device.name, &ops).await;
        desired
    }

    async fn carry_out(&mut self, device: &str, ops: &[Op]) {
        if !ops.is_empty() {
            debug!(steps = ops.len(), "plan");
        }
        let same_side = |a: &Op, b: &Op| matches!(a, Op::Map(_)) == matches!(b, Op::Map(_));
        for run in ops.chunk_by(same_side) {
            let mut kernel = Vec::new();
            for op in run {
                match op {
                    Op::Kernel(op) => kernel.push(op.clone()),
                    Op::Map(map) => {
                        if self.bpf.apply(map, &mut self.failures) {
                            self.observed.apply(op);
                        }
                    }
                }
            }
            if kernel.is_empty() {
                continue;
            }
            let failed = self.netlink.apply(device, &kernel).await;
            for (_, error) in &failed {
                self.failures.add("netlink", error);
            }
            for op in kernel {
                if !failed.iter().any(|(other, _)| *other == op) {
                    self.observed.apply(&Op::Kernel(op));
                }
            }
        }
    }

    /// Reads the device again if a step may have changed it, and follows its MAC address.
    async fn look_at_device(&mut self, name: &str, ops: &[Op]) {
        let created = ops
            .iter()
            .any(|op| matches!(op, Op::Kernel(KernelOp::CreateDevice(_))));
        if ops.iter().any(touches_device) {
            match self.netlink.device(name).await {
                Ok(device) => self.observed.kernel.device = device,
                Err(error) => {
                    self.failures.add("netlink", &error);
                    return;
                }
            }
        }
        let Some(device) = self.observed.kernel.device.clone() else {
            return;
        };
        if created {
            self.mark(name, &device).await;
        }
        if self.mac != Some(device.mac) {
            if let Some(old) = self.mac {
                warn!(device = name, %old, new = %device.mac, "MAC address changed; publishing it");
            }
            self.mac = Some(device.mac);
            self.publish();
        }
        self.report.device(&device);
    }

    /// Marks the device as one that we made. Without the mark it would only be left alone
    /// when everything of ours is taken away.
    async fn mark(&mut self, name: &str, device: &ObservedDevice) {
        let mark = self.args.instance.device_mark();
        info!(device = name, mac = %device.mac, "vxlan device created");
        if let Err(error) = self.netlink.set_alias(name, device.ifindex, &mark).await {
            self.failures.add("netlink", &error);
        }
    }

    async fn look_for_uplink(&mut self) {
        match self.finder.changed(&self.netlink, &self.uplink).await {
            Ok(None) => {}
            Ok(Some(uplink)) => {
                warn!(
                    old = self.uplink.name,
                    new = uplink.name,
                    address = %uplink.address,
                    mtu = uplink.mtu,
                    "uplink changed"
                );
                self.set_uplink(uplink);
            }
            Err(error) => self.failures.add("uplink", error.as_ref()),
        }
    }

    fn set_uplink(&mut self, uplink: Uplink) {
        self.report.uplink(&uplink);
        self.uplink = uplink.clone();
        self.state.apply(Event::UplinkChanged(uplink));
        self.publish();
    }

    /// What other nodes must know of this one.
    pub(super) fn lease_attrs(&self) -> Option<LeaseAttrs> {
        let mac = self.mac?;
        Some(LeaseAttrs::vxlan(
            self.uplink.public_ip,
            self.config.backend.vni,
            mac,
        ))
    }

    fn publish(&self) {
        if let (Some(sender), Some(attrs)) = (&self.attrs, self.lease_attrs()) {
            sender.send_if_modified(|published| {
                let differs = *published != attrs;
                if differs {
                    *published = attrs;
                }
                differs
            });
        }
    }

    fn interfaces(&self, desired: &Desired) -> Option<Interfaces> {
        let device = self.observed.kernel.device.as_ref()?;
        Some(Interfaces {
            overlay: Interface {
                name: desired.device.name.clone(),
                ifindex: device.ifindex,
            },
            uplink: Interface {
                name: self.uplink.name.clone(),
                ifindex: self.uplink.ifindex,
            },
        })
    }

    /// Whether the programs know another device or uplink than there is.
    fn device_changed(&self) -> bool {
        let present = self.observed.kernel.device.as_ref();
        self.told_interfaces
            .as_ref()
            .is_some_and(|(overlay, uplink)| {
                present.is_some_and(|device| device.ifindex != *overlay)
                    || *uplink != self.uplink.ifindex
            })
    }

    /// Writes the settings and makes sure that the programs are where they belong.
    async fn tell_programs(&mut self, desired: &Desired) {
        let (Some(interfaces), Some(own), Some(mac)) =
            (self.interfaces(desired), self.own, self.mac)
        else {
            return;
        };
        let source_ports = match host::local_port_range() {
            Ok(ports) => ports,
            Err(error) => {
                self.failures.add("host", &error);
                return;
            }
        };
        let common_prefix = self.config.subnet_len;
        let settings = Settings {
            mode: Mode::Bpf,
            vni: self.config.backend.vni,
            port: self.config.backend.port,
            uplink_ifindex: interfaces.uplink.ifindex,
            overlay_ifindex: interfaces.overlay.ifindex,
            source_ports,
            common_prefix,
            odd_routes: desired
                .peers
                .keys()
                .any(|subnet| subnet.prefix() != common_prefix),
            // What the kernel's device sends from, so that a packet looks the same either way.
            underlay: desired.device.local,
            own_subnet: own,
            network: self.config.network,
            vtep_mac: mac,
        };
        self.bpf.write_settings(&settings, &mut self.failures);
        self.told_interfaces = Some((interfaces.overlay.ifindex, interfaces.uplink.ifindex));
        if desired.complete && self.failures.is_empty() {
            self.bpf.attach(&interfaces, &mut self.failures).await;
            self.may_attach = true;
        }
    }

    /// Looks whether somebody detached a program.
    pub(super) async fn guard_programs(&mut self) {
        let desired = self.state.desired();
        if self.may_attach
            && let Some(interfaces) = self.interfaces(&desired)
        {
            self.bpf.attach(&interfaces, &mut self.failures).await;
            self.tell_people(&desired);
        }
    }

    /// Writes `subnet.env`, once pods can be reached at what it says.
    pub(super) fn tell_plugins(&mut self, desired: &Desired) {
        let Some(subnet) = self.own else { return };
        let ready = desired.address.is_some_and(|address| {
            let addresses = &self.observed.kernel.addresses;
            addresses.iter().any(|network| network.ip() == address)
        });
        let env = SubnetEnv {
            network: desired.network,
            subnet,
            mtu: desired.device.mtu,
            ip_masq: false,
        };
        if !ready || self.told == Some(env) {
            return;
        }
        match subnet_env::write(&self.args.subnet_file, &env) {
            Ok(()) => self.told = Some(env),
            Err(error) => self.failures.add("subnet_file", &error),
        }
    }

    fn tell_people(&mut self, desired: &Desired) {
        let ready = self.failures.is_empty() && desired.complete && self.told.is_some();
        self.readiness.set(ready);
        self.report.pass(Outcome {
            bpf: &self.bpf,
            failures: &self.failures,
            ready,
            peers: desired.peers.len(),
            complete: desired.complete,
            conflicts: self.conflicts(),
            unmapped: self.unmapped(desired),
        });
    }
}

fn touches_device(op: &Op) -> bool {
    match op {
        Op::Kernel(op) => matches!(
            op,
            KernelOp::CreateDevice(_)
                | KernelOp::RemoveDevice { .. }
                | KernelOp::SetMtu(_)
                | KernelOp::SetUp
        ),
        Op::Map(_) => false,
    }
}
impl Agent {
    fn plan_all(&self, desired: &Desired) -> Vec<Op> {
        twill_core::plan::plan(&self.observed, desired)
    }
    fn plan_subnets(&self, desired: &Desired, subnets: &BTreeSet<Subnet>) -> Vec<Op> {
        subnets
            .iter()
            .flat_map(|s| twill_core::plan::plan_subnet(&self.observed, desired, *s))
            .collect()
    }
    fn conflicts(&self) -> Vec<String> {
        vec![]
    }
    fn unmapped(&self, _: &Desired) -> Vec<String> {
        vec![]
    }
}
