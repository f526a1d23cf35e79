//! What the guard has to know of the node, and the sign of life that it goes by.

use tracing::{info, warn};
use twill_abi::Guard;
use twill_core::uplink::Ways;

use super::agent::{Agent, Look};
use super::failures::Failures;
use crate::args::AgentArgs;
use crate::datapath::settings::KERNEL_VXLAN_PORT;
use crate::files::host;
use crate::netlink::Netlink;

/// The node as the guard sees it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of the node that have nothing to do with each other"
)]
pub(super) struct Sentry {
    /// What becomes of strangers' VXLAN.
    pub(super) guard: Guard,
    /// Whether pods may send to the nodes' VXLAN port.
    pub(super) pod_vxlan: bool,
    /// Whether another vxlan device takes packets at our port. Until it is known, it does.
    pub(super) shared_port: bool,
    /// The uplink's kind or driver.
    pub(super) uplink_kind: String,
    /// Whether the uplink's packets have no Ethernet header: then the kernel carries them all.
    pub(super) bare_uplink: bool,
    /// Whether the store would tell of a new lease now.
    heard: bool,
    /// Which ways packets to other nodes take: so do theirs come.
    pub(super) ways: Ways,
}

impl Sentry {
    pub(super) fn new(args: &AgentArgs) -> Self {
        Self {
            guard: args.guard.into(),
            pod_vxlan: args.allow_pod_vxlan,
            shared_port: true,
            uplink_kind: String::new(),
            bare_uplink: false,
            heard: true,
            ways: Ways::default(),
        }
    }

    /// Whether the store would tell of a new lease now: without that, a node that joined a
    /// moment ago looks like a stranger.
    pub(super) fn hears(&self) -> bool {
        self.heard
    }

    /// What the store's client says of its watch.
    pub(super) fn heard(&mut self, heard: bool) {
        if self.heard != heard && self.guard == Guard::Enforce {
            if heard {
                info!("the store is heard again: the guard may drop");
            } else {
                warn!("the store is not heard: the guard counts, and drops nothing");
            }
        }
        self.heard = heard;
    }

    /// Looks who shares our port, and what the uplink is.
    pub(super) async fn look(
        &mut self,
        netlink: &Netlink,
        uplink: &str,
        device: &str,
        port: u16,
        failures: &mut Failures,
    ) {
        match netlink.vxlan_devices().await {
            Ok(devices) => {
                let mut others = devices.iter().filter(|other| other.name != device);
                self.shared_port = others.any(|other| other.port == port);
            }
            Err(error) => failures.add("netlink", &error),
        }
        match netlink.device(uplink).await {
            Ok(Some(link)) if link.kind == "device" => {
                self.uplink_kind = host::driver(uplink).unwrap_or(link.kind);
            }
            Ok(Some(link)) => self.uplink_kind = link.kind,
            Ok(None) => {}
            Err(error) => failures.add("netlink", &error),
        }
    }
}

impl Agent {
    /// Looks at what the guard has to know.
    pub(super) async fn look_for_the_guard(&mut self) {
        let uplink = &self.state.uplink().name;
        match self.netlink.has_ethernet_headers(uplink).await {
            Ok(Some(ethernet)) => {
                if self.sentry.bare_uplink == ethernet {
                    self.sentry.bare_uplink = !ethernet;
                    if !ethernet {
                        warn!(
                            uplink,
                            "no Ethernet headers: the kernel carries every packet"
                        );
                    }
                }
            }
            Ok(None) => {}
            Err(error) => self.failures.add("netlink", &error),
        }
        if self.sentry.guard == Guard::Off {
            return;
        }
        let backend = &self.state.config().backend;
        let (Some(vxlan), Some(device)) = (backend.vxlan(), backend.link_name()) else {
            return;
        };
        let port = vxlan.port;
        let uplink = self.state.uplink().name.clone();
        self.sentry
            .look(
                &self.netlink,
                &uplink,
                device.as_str(),
                port.unwrap_or(KERNEL_VXLAN_PORT),
                &mut self.failures,
            )
            .await;
    }

    /// Whether who is no VTEP in the maps is a stranger.
    pub(super) fn knows_every_node(&self) -> bool {
        self.state.is_complete() && self.unmapped.is_empty() && self.sentry.hears()
    }

    /// Gives the programs a new sign of life, and what has changed.
    pub(super) async fn beat(&mut self, store_is_heard: bool) {
        self.sentry.heard(store_is_heard);
        self.tell_programs(Look::Nowhere).await;
        if let Some((_, settings, _)) = &self.told_programs {
            self.bpf.write_settings(settings, &mut self.failures);
        }
    }
}
