//! Where the guard is: at XDP where it costs nothing, else at TC, which sees the same.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};
use tracing::{info, warn};
use twill_abi::{Guard, Program};
use twill_core::chain::chain;

use super::pins::{AttachmentKind, Pins, XdpKind};
use super::programs::Programs;
use crate::attach::tcx::{self, Links};
use crate::attach::xdp::{self, XdpError};
use crate::place::{Interface, Interfaces};

/// How long until XDP is asked for again where it could not be had.
const RETRY: Duration = Duration::from_mins(1);

/// Where the guard shall be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum GuardAttach {
    /// At XDP in the driver, where that costs nothing; else at TC.
    #[default]
    Auto,
    /// At XDP in the driver, even where that costs GRO; where it cannot be had, at TC.
    Native,
    /// At XDP in the stack, which every interface has, and which copies packets; where it cannot
    /// be had, at TC.
    Generic,
    /// At TC.
    Tc,
}

/// What the guard shall do, and where.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GuardOptions {
    /// What becomes of strangers' VXLAN.
    pub guard: Guard,
    /// Where.
    pub attach: GuardAttach,
}

/// Where the guard is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct GuardPlace {
    /// `xdp-native`, `xdp-generic`, `tc` or `nowhere`.
    pub by: String,
    /// Why not at XDP, or nowhere.
    pub reason: Option<String>,
}

/// The guard's place, as it was found last.
#[derive(Debug, Default)]
pub(super) struct Post {
    pub(super) place: GuardPlace,
    /// Identity of the program at XDP.
    pub(super) program_id: u32,
    /// Why XDP was refused, where, and until when nobody asks again.
    refused: Option<(Interface, String, Instant)>,
}

/// Why XDP on such an interface costs more than the guard is worth, if it does.
fn cost(kind: &str) -> Option<&'static str> {
    match kind {
        "veth" => Some("XDP on a veth takes GRO and whole GSO packets away"),
        "tun" | "tap" => Some("XDP on a tap copies every packet, GSO packets in pieces"),
        "virtio_net" => {
            Some("XDP on virtio_net takes the host's large packets (guest offloads) away")
        }
        // A device of hardware whose driver sysfs does not show, as where the agent's /sys is
        // that of another network namespace: it may be any of them.
        "device" | "" => {
            Some("what XDP costs there is not known, for /sys does not tell the driver")
        }
        _ => None,
    }
}

impl Post {
    /// Makes sure that the guard is at XDP, if it is to be there and can be; the pin of its link.
    /// Without one it has to be at TC.
    pub(super) fn at_xdp(
        &mut self,
        options: GuardOptions,
        programs: &mut Programs,
        pins: &Pins,
        interfaces: &Interfaces,
        links: &mut Links,
    ) -> Option<PathBuf> {
        let (uplink, uplink_kind) = (&interfaces.uplink, interfaces.uplink_kind.as_str());
        if options.guard == Guard::Off {
            self.place = GuardPlace::at("nowhere", Some("--guard=off".to_owned()));
            return None;
        }
        if interfaces.bare_uplink {
            // XDP sees no IP header of such an interface where it looks for one.
            let reason = format!("{} has no Ethernet header", uplink.name);
            self.place = GuardPlace::at("tc", Some(reason));
            return None;
        }
        let kind = match options.attach {
            GuardAttach::Tc => {
                self.place = GuardPlace::at("tc", Some("--guard-attach=tc".to_owned()));
                return None;
            }
            GuardAttach::Auto => {
                if let Some(cost) = cost(uplink_kind) {
                    let reason = format!("{cost}; --guard-attach=native takes it all the same");
                    self.place = GuardPlace::at("tc", Some(reason));
                    return None;
                }
                XdpKind::Native
            }
            GuardAttach::Native => XdpKind::Native,
            GuardAttach::Generic => XdpKind::Generic,
        };
        if let Some((interface, reason, until)) = &self.refused
            && interface == uplink
            && Instant::now() < *until
        {
            self.place = GuardPlace::at("tc", Some(reason.clone()));
            return None;
        }
        match ensure(programs, pins, uplink, kind, links) {
            Ok((pin, program_id)) => {
                self.program_id = program_id;
                let by = format!("xdp-{}", kind.label());
                if self.place.by != by {
                    info!(interface = uplink.name, by, "guard attached");
                }
                self.refused = None;
                self.place = GuardPlace::at(&by, None);
                Some(pin)
            }
            Err(error) => {
                let reason = chain(&error);
                if self.place.reason.as_ref() != Some(&reason) {
                    warn!(reason, "the guard cannot be at XDP; it is at TC");
                }
                self.place = GuardPlace::at("tc", Some(reason.clone()));
                self.refused = Some((uplink.clone(), reason, Instant::now() + RETRY));
                None
            }
        }
    }

    /// Whether it is at TC, in `from_uplink`; [`None`] before it was anywhere.
    pub(super) fn is_at_tc(&self) -> Option<bool> {
        (!self.place.by.is_empty()).then(|| !self.place.by.starts_with("xdp"))
    }
}

impl GuardPlace {
    fn at(by: &str, reason: Option<String>) -> Self {
        Self {
            by: by.to_owned(),
            reason,
        }
    }
}

fn ensure(
    programs: &mut Programs,
    pins: &Pins,
    interface: &Interface,
    kind: XdpKind,
    links: &mut Links,
) -> Result<(PathBuf, u32), XdpError> {
    let name = Program::Guard.label();
    let program = programs.guard().ok_or(XdpError::NotLoaded)?;
    let id = program.info().map_err(XdpError::Load)?.id();
    let pin = pins.xdp(name, interface.ifindex, kind);
    if let Some(held) = links.remove(&pin) {
        if let Some(link) = xdp::update(program, held)? {
            links.insert(pin.clone(), link);
            tcx::keep_pinned(links, &pin)?;
            return Ok((pin, id));
        }
        warn!(
            interface = interface.name,
            "somebody detached the guard; attaching it again"
        );
    }
    let mut old = Vec::new();
    for found in pins.attachments()? {
        if found.program != name || found.ifindex != interface.ifindex {
            continue;
        }
        match found.kind {
            AttachmentKind::Xdp(other) if other == kind => old.push(found.path),
            // An interface takes one program: that in another mode has to go first.
            AttachmentKind::Xdp(_) => {
                links.remove(&found.path);
                super::pins::remove(&found.path)?;
            }
            AttachmentKind::Tcx | AttachmentKind::Filter { .. } => {}
        }
    }
    let link = xdp::attach(program, interface, kind, &pin, &old)?;
    links.insert(pin.clone(), link);
    Ok((pin, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdp_costs_something_where_it_takes_large_packets_away_and_nowhere_else() {
        for kind in ["veth", "tun", "tap", "virtio_net", "device", ""] {
            assert!(cost(kind).is_some(), "{kind}");
        }
        // Physical NICs, and what has no XDP in the driver and says so when it is asked.
        for kind in ["ixgbe", "mlx5_core", "ena", "vlan", "bond"] {
            assert_eq!(cost(kind), None, "{kind}");
        }
    }
}
