//! Which interface carries the overlay, now and whenever the host changes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;
use tracing::{info, warn};
use twill_core::chain::chain;
use twill_core::config::NetworkConfig;
use twill_core::uplink::{Uplink, sample};

use crate::args::AgentArgs;
use crate::netlink::{Netlink, Overlay, UplinkChoice, UplinkTerms};

/// How long an uplink that is there may be down, or without a carrier, before another one is
/// taken: a switch that starts again, a cable that is put elsewhere. Nothing is lost by waiting
/// that moving would have saved: peers must learn of the other address first.
const GRACE: Duration = Duration::from_secs(10);
/// How soon an uplink that was found once is looked at again: what a host shows while it changes
/// its network is over by then, and until then other nodes send to where nobody is.
const SECOND_LOOK: Duration = Duration::from_millis(200);

/// Looks for the uplink in the places that the flags name.
pub(super) struct Finder {
    choices: Vec<UplinkChoice>,
    /// What flannel says where none of them is there.
    nowhere: &'static str,
    terms: UplinkTerms,
    doubt: Doubt,
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
                    device: config.backend.link_name().map(|name| name.to_string()),
                    pods: config.pods(),
                }),
                ..UplinkTerms::default()
            },
            doubt: Doubt::default(),
        }
    }

    /// The one where the node was `last`, if it is still there, can carry and is meant; else the
    /// first that is there. Tells what was chosen and why, in flannel's words.
    pub(super) async fn find(
        &self,
        netlink: &Netlink,
        last: Option<Ipv4Addr>,
        elsewhere: BTreeSet<Ipv4Addr>,
    ) -> Result<Uplink> {
        let mut terms = UplinkTerms {
            last,
            elsewhere,
            ..self.terms.clone()
        };
        if let Some(last) = last {
            terms.present = netlink.holder(last).await?;
        }
        let kept = self.present(netlink, &terms).await?;
        // Flags may name another one than they did then.
        terms.present = None;
        let (uplink, choice) = match kept {
            Some(kept) => kept,
            None => self.look(netlink, &terms).await?,
        };
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

    /// The present uplink, by the first choice that may mean it.
    async fn present(
        &self,
        netlink: &Netlink,
        terms: &UplinkTerms,
    ) -> Result<Option<(Uplink, &UplinkChoice)>> {
        for choice in &self.choices {
            if let Some(uplink) = netlink.present_uplink(choice, terms).await? {
                return Ok(Some((uplink, choice)));
            }
        }
        Ok(None)
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

    /// Another uplink than `present`, once `present` cannot carry any more and the other was found
    /// twice in a row: a host that is just changing its network shows things that are gone in a
    /// moment. Other nodes are at the addresses `elsewhere`.
    pub(super) async fn changed(
        &mut self,
        netlink: &Netlink,
        present: &Uplink,
        elsewhere: BTreeSet<Ipv4Addr>,
    ) -> Result<Option<Uplink>> {
        let terms = UplinkTerms {
            present: Some(present.ifindex),
            last: Some(present.address),
            nodes: sample(&elsewhere),
            elsewhere,
            ..self.terms.clone()
        };
        let found = match self.present(netlink, &terms).await? {
            Some((found, _)) => found,
            None => self.look(netlink, &terms).await?.0,
        };
        let needed = if found.ifindex != present.ifindex && netlink.is_down(present.ifindex).await?
        {
            GRACE
        } else {
            SECOND_LOOK
        };
        let settled = self.doubt.settle(present, found, needed, Instant::now());
        if let Some(found) = &settled
            && found.local != present.local
        {
            tell_local(found);
        }
        Ok(settled)
    }

    /// How soon another uplink, which was found once, is to be looked at again.
    pub(super) fn second_look(&self) -> Option<Duration> {
        self.doubt.left(Instant::now())
    }
}

/// Another uplink that was found, and may be gone in a moment.
#[derive(Debug, Default)]
struct Doubt(Option<Candidate>);

#[derive(Debug)]
struct Candidate {
    uplink: Uplink,
    since: Instant,
    needed: Duration,
}

impl Doubt {
    /// What was found, if it is another uplink than `present` and was found so for as long as is
    /// needed.
    fn settle(
        &mut self,
        present: &Uplink,
        found: Uplink,
        needed: Duration,
        now: Instant,
    ) -> Option<Uplink> {
        let before = self.0.take();
        if found == *present {
            return None;
        }
        let since = match before {
            Some(before) if before.uplink == found => before.since,
            _ => now,
        };
        // A look that comes early for another reason is a second look as well.
        let is_second = since < now && needed <= SECOND_LOOK;
        if is_second || now.duration_since(since) >= needed {
            return Some(found);
        }
        self.0 = Some(Candidate {
            uplink: found,
            since,
            needed,
        });
        None
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        let candidate = self.0.as_ref()?;
        let left = candidate
            .needed
            .saturating_sub(now.duration_since(candidate.since));
        Some(left.max(SECOND_LOOK))
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

#[cfg(test)]
mod tests {
    use twill_core::vtep::MacAddr;

    use super::*;

    fn uplink(ifindex: u32) -> Uplink {
        let address = Ipv4Addr::new(192, 0, 2, 1);
        Uplink {
            ifindex,
            name: format!("eth{ifindex}"),
            mtu: 1500,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            address,
            public_ip: address,
            local: address,
        }
    }

    #[test]
    fn another_uplink_is_believed_when_it_is_found_again() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let present = uplink(2);
        let mut doubt = Doubt::default();
        let mut settle = |found: u32, milliseconds| {
            let settled = doubt.settle(&present, uplink(found), SECOND_LOOK, after(milliseconds));
            (
                settled.map(|uplink| uplink.ifindex),
                doubt.left(after(milliseconds)),
            )
        };
        let soon = Some(SECOND_LOOK);
        assert_eq!(settle(2, 0), (None, None));
        assert_eq!(settle(3, 0), (None, soon));
        // Back again, and another one.
        assert_eq!(settle(2, 100), (None, None));
        assert_eq!(settle(3, 200), (None, soon));
        assert_eq!(settle(4, 300), (None, soon));
        assert_eq!(settle(4, 350), (Some(4), None));
    }

    #[test]
    fn an_uplink_that_is_down_has_its_time() {
        let start = Instant::now();
        let present = uplink(2);
        let mut doubt = Doubt::default();
        let mut settle = |needed, after| {
            let now = start + after;
            let settled = doubt.settle(&present, uplink(3), needed, now);
            (settled.is_some(), doubt.left(now))
        };
        let second = Duration::from_secs(1);
        assert_eq!(settle(GRACE, Duration::ZERO), (false, Some(GRACE)));
        assert_eq!(settle(GRACE, second), (false, Some(9 * second)));
        assert_eq!(settle(GRACE, GRACE), (true, None));
        // It is up again, and cannot carry all the same.
        assert_eq!(settle(GRACE, GRACE), (false, Some(GRACE)));
        assert_eq!(settle(SECOND_LOOK, GRACE + second), (true, None));
    }
}
