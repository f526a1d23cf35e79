//! Which interface carries the overlay, now and whenever the host changes.

use anyhow::{Result, bail};
use tracing::info;
use twill_core::uplink::Uplink;

use crate::args::AgentArgs;
use crate::datapath::chain;
use crate::netlink::{Netlink, UplinkChoice};

/// Looks for the uplink in the places that the flags name.
pub(super) struct Finder {
    choices: Vec<UplinkChoice>,
    /// What flannel says where none of them is there.
    nowhere: &'static str,
    public_ip: Option<std::net::Ipv4Addr>,
    /// What was found last, where that is not the present uplink.
    candidate: Option<Uplink>,
}

impl Finder {
    pub(super) fn new(args: &AgentArgs) -> Self {
        Self {
            choices: args.uplink_choices(),
            nowhere: if args.names_uplink() {
                "Failed to find interface to use that matches the interfaces and/or regexes \
                 provided"
            } else {
                "Failed to find any valid interface to use"
            },
            public_ip: args.public_ip,
            candidate: None,
        }
    }

    /// The first that is there. Tells what was chosen and why, in flannel's words.
    pub(super) async fn find(&self, netlink: &Netlink) -> Result<Uplink> {
        let (uplink, choice) = self.look(netlink).await?;
        let Uplink {
            name,
            address,
            public_ip,
            mtu,
            ..
        } = &uplink;
        info!(by = %choice, mtu, "Using interface with name {name} and address {address}");
        if self.public_ip.is_some() {
            info!("Using {public_ip} as external address");
        } else {
            info!("Defaulting external address to interface address ({address})");
        }
        Ok(uplink)
    }

    async fn look(&self, netlink: &Netlink) -> Result<(Uplink, &UplinkChoice)> {
        let mut errors = Vec::new();
        for choice in &self.choices {
            match netlink.uplink(choice, self.public_ip).await {
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
        let (found, _) = self.look(netlink).await?;
        if found == *present {
            self.candidate = None;
            return Ok(None);
        }
        if self.candidate.as_ref() == Some(&found) {
            self.candidate = None;
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
