//! Which interface carries the overlay, now and whenever the host changes.

use anyhow::{Result, bail};
use tracing::{info, warn};
use twill_core::config::NetworkConfig;
use twill_core::uplink::Uplink;

use crate::args::{AgentArgs, device_name};
use crate::datapath::chain;
use crate::netlink::{Netlink, Overlay, UplinkChoice, UplinkTerms};

/// Looks for the uplink in the places that the flags name.
pub(super) struct Finder {
    choices: Vec<UplinkChoice>,
    /// What flannel says where none of them is there.
    nowhere: &'static str,
    terms: UplinkTerms,
    /// What was found last, where that is not the present uplink.
    candidate: Option<Uplink>,
}

impl Finder {
    /// Of an agent with these flags, for an overlay of this config.
    pub(super) fn new(args: &AgentArgs, config: &NetworkConfig) -> Self {
        Self {
            choices: args.uplink_choices(),
            nowhere: if args.names_uplink() {
                "Failed to find interface to use that matches the interfaces and/or regexes \
                 provided"
            } else {
                "Failed to find any valid interface to use"
            },
            terms: UplinkTerms {
                public_ip: args.public_ip,
                overlay: Some(Overlay {
                    device: device_name(config.backend.vni),
                    pods: config.pods(),
                }),
                present: None,
            },
            candidate: None,
        }
    }

    /// The first that is there. Tells what was chosen and why, in flannel's words.
    pub(super) async fn find(&self, netlink: &Netlink) -> Result<Uplink> {
        let (uplink, choice) = self.look(netlink, &self.terms).await?;
        let Uplink {
            name,
            address,
            public_ip,
            mtu,
            ..
        } = &uplink;
        info!(by = %choice, mtu, "Using interface with name {name} and address {address}");
        if self.terms.public_ip.is_some() {
            info!("Using {public_ip} as external address");
        } else {
            info!("Defaulting external address to interface address ({address})");
        }
        tell_local(&uplink);
        Ok(uplink)
    }

    async fn look(
        &self,
        netlink: &Netlink,
        terms: &UplinkTerms,
    ) -> Result<(Uplink, &UplinkChoice)> {
        let mut errors = Vec::new();
        for choice in &self.choices {
            match netlink.uplink(choice, terms).await {
                Ok(uplink) => return Ok((uplink, choice)),
                Err(error) => errors.push(format!("{choice}: {}", chain(&error))),
            }
        }
        bail!("{}: {}", self.nowhere, errors.join("; "))
    }

    /// Another uplink than `present`, once it was found twice in a row: a host that is just
    /// changing its network shows things that are gone in a moment.
    pub(super) async fn changed(
        &mut self,
        netlink: &Netlink,
        present: &Uplink,
    ) -> Result<Option<Uplink>> {
        let terms = UplinkTerms {
            present: Some(present.ifindex),
            ..self.terms.clone()
        };
        let (found, _) = self.look(netlink, &terms).await?;
        if found == *present {
            self.candidate = None;
            return Ok(None);
        }
        if self.candidate.as_ref() == Some(&found) {
            self.candidate = None;
            if found.local != present.local {
                tell_local(&found);
            }
            return Ok(Some(found));
        }
        self.candidate = Some(found);
        Ok(None)
    }

    /// Whether another uplink was found once and is to be looked at again soon.
    pub(super) fn is_unsure(&self) -> bool {
        self.candidate.is_some()
    }
}

/// Says where packets to other nodes are from, where that is not the address that they send to.
fn tell_local(uplink: &Uplink) {
    let Uplink {
        local, public_ip, ..
    } = uplink;
    if local != public_ip {
        warn!(
            "no interface of this node has the external address {public_ip}: packets to other \
             nodes are from {local}, and other nodes send to {public_ip}"
        );
    }
}
