//! One pass: look, plan, carry out, attach, tell.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use tracing::{info, warn};
use twill_abi::{FastPath, Guard, Mode};
use twill_core::backend::{LinkName, Unsuitable};
use twill_core::chain::chain;
use twill_core::lease::LeaseAttrs;
use twill_core::observed::ObservedDevice;
use twill_core::plan::{KernelOp, Op, Plan, plan, plan_peer};
use twill_core::routing_rules::{KernelRouted, OuterPackets};
use twill_core::simulate::apply_op;
use twill_core::state::desired;
use twill_core::subnet::Subnet;
use twill_core::subnet_env::SubnetEnv;
use twill_core::uplink::{Uplink, Ways};
use twill_core::vtep::MacAddr;

use super::agent::{Agent, Batch, Look};
use super::conditions::uptime;
use super::pods::Surroundings;
use super::report::Outcome;
use crate::crash;
use crate::datapath::place::{Interface, Interfaces};
use crate::datapath::settings::{KERNEL_VXLAN_PORT, Settings};
use crate::files::{host, subnet_env};
use crate::netlink::monitor::Monitor;

impl Agent {
    /// Makes the node what it should be, as far as `batch` says that it may not be.
    pub(super) async fn pass(&mut self, batch: Batch, monitor: &Monitor) {
        if batch.look == Look::Everywhere {
            self.failures.begin();
        }
        if batch.look > Look::Nowhere {
            self.look_for_uplink().await;
            monitor.watch_uplink(Some(self.state.uplink().ifindex));
        }
        if batch.look == Look::Everywhere {
            self.bpf.load(&mut self.failures);
            if let Some(told) = self.bpf.told(&mut self.failures) {
                self.acceptance.remember(&told);
            }
        }
        self.reconcile(batch.look, &batch.subnets).await;
        self.note(batch.listed);
        self.follow_path_mtus(batch.look, &batch.subnets).await;
        monitor.watch_mtus(self.mtus_carried);
        if batch.look == Look::Everywhere {
            self.assert_netfilter().await;
        }
        if batch.look >= Look::Kernel {
            self.look_at_policy().await;
            self.look_for_the_guard().await;
            self.look_at_rules().await;
        }
        // Of the first node the routes have to be asked at once; others are as it is.
        let first = self.sentry.ways == Ways::Unknown && !batch.subnets.is_empty();
        if batch.look >= Look::Kernel || first {
            self.look_at_ways().await;
        }
        if batch.look == Look::Everywhere || batch.pods {
            self.look_at_pods().await;
        }
        // A peer like all others changes nothing that the settings say.
        let common = self.state.config().subnet_len;
        let may_differ = batch.look > Look::Nowhere
            || batch.pods
            || batch.subnets.iter().any(|subnet| subnet.prefix() != common);
        if batch.look == Look::Everywhere || (may_differ && self.told_programs.is_some()) {
            self.tell_programs(batch.look).await;
        }
        self.tell_plugins(batch.look);
        self.tell_people();
    }

    /// Observes, plans and carries out.
    pub(super) async fn reconcile(&mut self, look: Look, subnets: &BTreeSet<Subnet>) {
        let begin = Instant::now();
        let link = self.state.config().backend.link_name();
        // Which way a peer is reached, only the kernel knows.
        let ways = self.state.config().backend.asks_for_ways();
        let look = if ways && !subnets.is_empty() {
            look.max(Look::Kernel)
        } else {
            look
        };
        if look >= Look::Kernel {
            let network = self.state.config().network;
            match self.netlink.observe(link.clone(), network).await {
                Ok(kernel) => {
                    let before = std::mem::replace(&mut self.observed.kernel, kernel);
                    // Else there may be routes of a start with other settings.
                    if ways || look == Look::Everywhere {
                        self.look_for_underlay_routes(before.underlay_routes).await;
                    }
                    if ways {
                        self.look_for_ways(before.on_link).await;
                    }
                }
                Err(error) => {
                    // Planning against what is not known would do harm.
                    self.failures.add("netlink", &error);
                    return;
                }
            }
        }
        if look == Look::Everywhere {
            self.observed.maps = self.bpf.observe(&mut self.failures);
        }
        let peers: Vec<Subnet> = subnets.iter().copied().collect();
        let Plan { ops, unmapped } = match (look, peers.as_slice()) {
            (Look::Nowhere, []) => return,
            // By far the most frequent, and the same work however many other peers there are.
            (Look::Nowhere, &[subnet]) => {
                self.unmapped.remove(&subnet);
                plan_peer(&self.observed, &self.state, subnet)
            }
            _ => {
                self.unmapped.clear();
                plan(&self.observed, &desired(&self.state))
            }
        };
        self.unmapped.extend(unmapped);
        let written = self.carry_out(&ops).await;
        self.meters.pass(begin.elapsed(), ops.len());
        let seen = look == Look::Everywhere && self.observed.maps.is_some();
        if seen && written && self.state.is_complete() {
            self.bpf.peers_are_written();
        }
        if let Some(link) = link {
            self.look_at_link(link, &ops).await;
        } else {
            self.report.link(None, self.state.mtu());
        }
        if let Err(error) = self.state.config().backend.suits(self.state.uplink()) {
            let kind = match error {
                Unsuitable::Mtu(_) => "mtu",
                Unsuitable::Translated { .. } => "uplink",
            };
            self.failures.add(kind, &error);
        }
    }

    /// Does the steps; whether every entry of a map was written.
    async fn carry_out(&mut self, ops: &[Op]) -> bool {
        let mut written = true;
        if ops.is_empty() {
            return written;
        }
        let begin = Instant::now();
        if let Some(mac) = ops.iter().find_map(created)
            && let Err(error) = self.making.begin(mac)
        {
            // It works without; only a death before its mark would make it nobody's.
            warn!(error = %chain(&error), "note that a device is made");
        }
        let same_side = |a: &Op, b: &Op| matches!(a, Op::Map(_)) == matches!(b, Op::Map(_));
        for run in ops.chunk_by(same_side) {
            let mut kernel = Vec::new();
            for op in run {
                match op {
                    Op::Kernel(op) => kernel.push(op.clone()),
                    Op::Map(map) => {
                        if self.bpf.apply(map, &mut self.failures) {
                            apply_op(&mut self.observed, op);
                        } else {
                            written = false;
                        }
                        crash::point("map");
                    }
                }
            }
            for ops in kernel.chunks(crash::at_once(kernel.len())) {
                let failed = self.netlink.apply(ops).await;
                for (_, error) in &failed {
                    self.failures.add("netlink", error);
                }
                for op in ops {
                    if !failed.iter().any(|(other, _)| other == op) {
                        apply_op(&mut self.observed, &Op::Kernel(op.clone()));
                    }
                }
                crash::point("kernel");
            }
        }
        let peers = self.state.peers().len();
        info!(steps = ops.len(), peers, took = ?begin.elapsed(), "node brought in line");
        written
    }

    /// Reads the device again if a step may have changed it, and follows its MAC address.
    async fn look_at_link(&mut self, link: LinkName, ops: &[Op]) {
        let name = link.as_str();
        if ops.iter().any(touches_link) {
            match self.netlink.device(name).await {
                Ok(Some(device)) => {
                    let link = self.observed.kernel.links.entry(link.clone());
                    link.or_default().device = device;
                }
                Ok(None) => {
                    self.observed.kernel.links.remove(name);
                }
                Err(error) => {
                    self.failures.add("netlink", &error);
                    return;
                }
            }
        }
        let Some(link) = self.observed.kernel.links.get(name) else {
            return;
        };
        let device = link.device.clone();
        if self.making.is_begun(device.mac) {
            self.mark(name, &device).await;
        }
        if self.mac != Some(device.mac) {
            if let Some(old) = self.mac {
                warn!(device = name, %old, new = %device.mac, "MAC address changed; publishing it");
            }
            self.mac = Some(device.mac);
            self.state.set_device_mac(device.mac);
            self.publish();
        }
        self.state.set_device_mtu(device.mtu);
        let ours = self.state.mtu();
        if self.report.link(Some(device.mac), device.mtu) && device.mtu != ours {
            warn!(
                device = name,
                mtu = device.mtu,
                ours,
                "the device has another MTU than pods are given; it stays"
            );
        }
    }

    /// Marks the device as one that we made. Without the mark it would only be left alone
    /// when everything of ours is taken away.
    async fn mark(&mut self, name: &str, device: &ObservedDevice) {
        let mark = self.args.instance.device_mark();
        info!(device = name, mac = %device.mac, "vxlan device created");
        match self.netlink.set_alias(name, device.ifindex, &mark).await {
            Ok(()) => self.making.end(),
            Err(error) => self.failures.add("netlink", &error),
        }
        crash::point("mark");
    }

    pub(super) async fn look_for_uplink(&mut self) {
        let present = self.state.uplink();
        let elsewhere = self.state.elsewhere();
        let changed = self.finder.changed(&self.netlink, present, elsewhere);
        match changed.await {
            Ok(None) => {}
            Ok(Some(uplink)) => {
                warn!(
                    old = present.name,
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
        self.moved |= uplink.address != self.state.uplink().address;
        // What there is to plan is planned by the pass that found it.
        self.state.set_uplink(uplink);
        self.publish();
    }

    /// What other nodes must know of this one.
    pub(super) fn lease_attrs(&self) -> Option<LeaseAttrs> {
        let backend = &self.state.config().backend;
        backend.attrs(self.state.uplink().public_ip, self.mac)
    }

    /// Tells the lease's keeper, if that is news.
    pub(super) fn publish(&self) {
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

    /// Asks after flannel's rules, and makes sure of what permits rest on.
    async fn assert_netfilter(&mut self) {
        if let Some(own_subnet) = self.state.own_subnet() {
            self.traffic.trouble(&mut self.failures);
            if self.args.ip_blackhole_route {
                self.set_blackhole(own_subnet).await;
            }
            let network = self.state.config().network;
            let link = self.state.config().backend.link_name();
            // Without a link nothing is carried, and no table is wanted.
            let device = link.map(|name| name.to_string()).unwrap_or_default();
            self.acceptance
                .assert(network, own_subnet, &device, &mut self.failures)
                .await;
        }
    }

    async fn set_blackhole(&mut self, own_subnet: Subnet) {
        match self.netlink.set_blackhole(own_subnet).await {
            Ok(false) => {}
            Ok(true) => info!(%own_subnet, "blackhole route added"),
            Err(error) => self.failures.add("netlink", &error),
        }
    }

    /// Reads the routing rules; those that were known hold until then.
    async fn look_at_rules(&mut self) {
        match self.netlink.routing_rules().await {
            Ok(rules) => self.routing_rules = Some(rules),
            Err(error) => self.failures.add("netlink", &error),
        }
    }

    /// Looks again at what permits rest on, if that was not in order and it is time.
    pub(super) async fn look_again(&mut self) {
        if self.acceptance.is_due() {
            self.assert_netfilter().await;
            self.tell_programs(Look::Nowhere).await;
            self.tell_people();
        }
    }

    /// Looks for pods that came, went, or may not be fast any more.
    async fn look_at_pods(&mut self) {
        let Some(own_subnet) = self.state.own_subnet() else {
            return;
        };
        let around = Surroundings {
            own_subnet,
            uplink: self.state.uplink().ifindex,
            bpf: &self.bpf,
        };
        self.pods
            .look(&self.netlink, &around, &mut self.failures)
            .await;
    }

    /// Looks at pods again where a CNI plugin has entered one that was not seen yet; whether that
    /// was so. What is seen holds as long as the pods are locked.
    async fn see_entered_pods(&mut self) -> bool {
        let known = self.pods.known();
        let entered = self.bpf.entered_pods(&mut self.failures);
        let is_new = entered.iter().any(|ifindex| !known.contains_key(ifindex));
        if is_new {
            self.look_at_pods().await;
        }
        is_new
    }

    fn interfaces(&self) -> Option<Interfaces> {
        let name = self.state.config().backend.link_name()?;
        let device = &self.observed.kernel.links.get(&name)?.device;
        let uplink = self.state.uplink();
        Some(Interfaces {
            overlay: Interface {
                name: name.to_string(),
                ifindex: device.ifindex,
            },
            uplink: Interface {
                name: uplink.name.clone(),
                ifindex: uplink.ifindex,
            },
            // Where flows are slow for a while, nothing is gained by taking programs away.
            pods: match self.acceptance.wanted() {
                FastPath::Off => Vec::new(),
                FastPath::Permit | FastPath::Direct => self.pods.interfaces(),
            },
            watched: match (self.sentry.guard, self.acceptance.wanted()) {
                (Guard::Enforce, FastPath::Off) => self.pods.all(),
                (Guard::Enforce, _) => self.pods.never_fast(),
                (Guard::Off | Guard::Count, _) => Vec::new(),
            },
            uplink_kind: self.sentry.uplink_kind.clone(),
            bare_uplink: self.sentry.bare_uplink,
        })
    }

    /// Writes the settings and makes sure that the programs are where they belong, unless they
    /// know all that and nobody asks for more than that.
    pub(super) async fn tell_programs(&mut self, look: Look) {
        if self.state.config().backend.vxlan().is_none() {
            // Those of a start with another backend go, once the kernel knows every way.
            if self.state.is_complete() {
                self.bpf.clear(&mut self.failures).await;
            }
            return;
        }
        let _alone = self.bpf.lock_pods().await;
        let entered = self.see_entered_pods().await;
        let (Some(interfaces), Some(settings)) = (self.interfaces(), self.settings()) else {
            return;
        };
        let told = (interfaces, settings, self.pods.uses());
        let is_told = self.told_programs.as_ref() == Some(&told);
        if look < Look::Everywhere && is_told && !entered {
            return;
        }
        let (interfaces, settings, uses) = &told;
        self.bpf.write_settings(settings, &mut self.failures);
        crash::point("settings");
        if let Some(uses) = uses {
            self.bpf.set_pods(uses, &mut self.failures);
            crash::point("pods");
        }
        if self.state.is_complete() {
            self.bpf.attach(interfaces, &mut self.failures).await;
            self.may_attach = true;
        }
        self.told_programs = Some(told);
    }

    fn settings(&mut self) -> Option<Settings> {
        let (interfaces, own_subnet) = (self.interfaces()?, self.state.own_subnet()?);
        let source_ports = match host::local_port_range() {
            Ok((lowest, last)) => (lowest, self.bpf.last_port().end(last)),
            Err(error) => {
                self.failures.add("host", &error);
                return None;
            }
        };
        let config = self.state.config();
        let vxlan = config.backend.vxlan()?;
        let outer = OuterPackets {
            source: self.state.uplink().local,
            source_ports,
            port: vxlan.port.unwrap_or(KERNEL_VXLAN_PORT),
        };
        self.kernel_routed = KernelRouted::by(self.routing_rules.as_deref(), outer);
        let peers = self.state.peers();
        // What an earlier start wrote goes on until the first complete list.
        let maps = self.observed.maps.as_ref();
        let allowed = self.acceptance.allowed();
        Some(Settings {
            mode: Mode::Bpf,
            vni: vxlan.vni,
            port: vxlan.port,
            uplink_ifindex: interfaces.uplink.ifindex,
            overlay_ifindex: interfaces.overlay.ifindex,
            source_ports,
            common_prefix: config.subnet_len,
            odd_routes: has_odd(peers.as_map(), config.subnet_len)
                || maps.is_some_and(|maps| has_odd(&maps.routes, config.subnet_len)),
            // What the kernel's device sends from: a packet looks the same either way.
            underlay: self.state.uplink().local,
            own_subnet,
            network: config.network,
            vtep_mac: self.mac?,
            fast_path: if self.sentry.bare_uplink {
                FastPath::Off
            } else {
                allowed.fast_path
            },
            permit_time: allowed.permit_time,
            mark_bit: self.acceptance.mark_bit(),
            tcp_permits: allowed.tcp_permits,
            stale: self.acceptance.is_stale(),
            rule_marks: self.kernel_routed.marks,
            routed_by_port: self.kernel_routed.all,
            overlay_policy: self.acceptance.has_overlay_policy(),
            bare_uplink: self.sentry.bare_uplink,
            excluded_links: !self.args.exclude_link.is_empty(),
            guard: self.sentry.guard,
            leases_complete: self.knows_every_node(),
            shared_port: self.sentry.shared_port,
            pod_vxlan: self.sentry.pod_vxlan,
        })
    }

    /// Looks whether somebody detached a program.
    pub(super) async fn guard_programs(&mut self) {
        let _alone = self.bpf.lock_pods().await;
        self.see_entered_pods().await;
        if self.may_attach
            && let Some(interfaces) = self.interfaces()
        {
            self.bpf.attach(&interfaces, &mut self.failures).await;
        }
    }

    /// Writes `subnet.env`, once pods can be reached at what it says, and again if somebody has
    /// changed or removed it.
    pub(super) fn tell_plugins(&mut self, look: Look) {
        let Some(subnet) = self.state.own_subnet() else {
            return;
        };
        let ready = self
            .state
            .link()
            .is_none_or(|link| self.observed.kernel.has_address(&link));
        let env = SubnetEnv {
            network: self.state.config().network,
            subnet,
            mtu: self.state.mtu(),
            ip_masq: self.args.ip_masq,
        };
        let known = self.told == Some(env) && look < Look::Everywhere;
        if !ready || known {
            return;
        }
        if !self.args.has_subnet_file() {
            self.told = Some(env);
            return;
        }
        match subnet_env::write(&self.args.subnet_file, &env) {
            Ok(()) => {
                self.told = Some(env);
                crash::point("subnet.env");
            }
            Err(error) => self.failures.add("subnet_file", &error),
        }
    }

    /// What the agent does, for `systemctl status`.
    fn in_a_line(&self) -> String {
        let subnet = self.state.own_subnet();
        let subnet = subnet.map_or_else(|| "no lease".to_owned(), |subnet| subnet.to_string());
        let peers = self.state.peers().len();
        match self.bpf.mode() {
            (mode, None) => format!("{subnet}, {peers} peers, packets by {mode}"),
            (mode, Some(why)) => format!("{subnet}, {peers} peers, packets by {mode}: {why}"),
        }
    }

    pub(super) fn tell_people(&mut self) {
        let complete = self.state.is_complete();
        self.look_at_conditions();
        // Packets go by the kernel then, but not as they should, and somebody has to act.
        let whole = self.unmapped.is_empty() && !self.bpf.is_refused();
        let sound = self.failures.is_empty() && !self.conditions.bar_readiness(uptime());
        let told = self.told.is_some() && self.args.has_subnet_file();
        let ready = sound && complete && told && whole;
        if ready && !self.readiness.get() {
            // flannel's words.
            info!("flannel is ready");
        }
        self.readiness.set(ready);
        self.notice.status(self.in_a_line());
        self.report.pass(&Outcome {
            bpf: &self.bpf,
            acceptance: &self.acceptance,
            pods: &self.pods,
            failures: &self.failures,
            conditions: &self.conditions,
            failed_renewals: self.contact.failed_renewals,
            state: &self.state,
            ready,
            unmapped: &self.unmapped,
            sentry: &self.sentry,
            kernel_routed: &self.kernel_routed,
            kernel: &self.observed.kernel,
        });
    }
}

/// Whether a subnet has another prefix length than most.
fn has_odd<T>(subnets: &BTreeMap<Subnet, T>, common: u8) -> bool {
    subnets.keys().any(|subnet| subnet.prefix() != common)
}

/// The MAC address of a link that is made.
fn created(op: &Op) -> Option<MacAddr> {
    match op {
        Op::Kernel(KernelOp::Create(spec)) => Some(spec.mac),
        Op::Kernel(_) | Op::Map(_) => None,
    }
}

fn touches_link(op: &Op) -> bool {
    match op {
        Op::Kernel(op) => matches!(
            op,
            KernelOp::Create(_)
                | KernelOp::Remove { .. }
                | KernelOp::SetMtu { .. }
                | KernelOp::SetUp(_)
        ),
        Op::Map(_) => false,
    }
}
