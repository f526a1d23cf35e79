//! `twillctl status`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use nix::net::if_::if_indextoname;
use serde_json::json;

use super::{Place, table};
use crate::datapath::pins::{AttachmentKind, AttachmentPin};
use crate::datapath::reader::{PinnedSettings, Reader};
use crate::files::status::{self, Liveness, Status};

/// twilld is not running.
const NOT_RUNNING: u8 = 3;
/// twilld is running, and the node is not as it should be.
const NOT_READY: u8 = 4;

/// What the pins say by themselves.
struct Pinned {
    settings: PinnedSettings,
    routes: usize,
    vteps: usize,
    attachments: Vec<AttachmentPin>,
}

pub(super) fn run(place: &Place) -> Result<ExitCode> {
    let path = status::path(&place.run_dir, place.instance.as_str());
    let said = status::read(&path).context("read what twilld said")?;
    let pinned = read_pins(place).map_err(|error| format!("{error:#}"));
    let liveness = said.as_ref().map(Status::liveness);

    if place.json {
        print_json(liveness, said.as_ref(), &pinned)?;
    } else {
        print_table(&path, liveness, said.as_ref(), &pinned);
    }
    Ok(match (liveness, said) {
        (Some(Liveness::Alive), Some(said)) if said.ready => ExitCode::SUCCESS,
        (Some(Liveness::Alive), _) => ExitCode::from(NOT_READY),
        _ => ExitCode::from(NOT_RUNNING),
    })
}

fn read_pins(place: &Place) -> Result<Pinned> {
    let reader = Reader::open(&place.pins())?;
    let settings = reader.settings()?;
    let observed = reader.maps().observe(settings.vni)?;
    Ok(Pinned {
        settings,
        routes: observed.routes.len(),
        vteps: observed.vteps.len(),
        attachments: reader.attachments().to_vec(),
    })
}

fn word(liveness: Option<Liveness>) -> &'static str {
    match liveness {
        Some(Liveness::Alive) => "running",
        Some(Liveness::Stopped) => "stopped",
        Some(Liveness::Dead) => "dead",
        None => "unknown",
    }
}

fn by(kind: AttachmentKind) -> String {
    match kind {
        AttachmentKind::Tcx => "tcx".to_owned(),
        AttachmentKind::Filter { priority, handle } => {
            format!("netlink, priority {priority}, handle {handle}")
        }
    }
}

fn interface(ifindex: u32) -> String {
    if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| format!("interface {ifindex}, which is not here"))
}

fn print_json(
    liveness: Option<Liveness>,
    said: Option<&Status>,
    pinned: &Result<Pinned, String>,
) -> Result<()> {
    let pins = match pinned {
        Err(error) => json!({ "error": error }),
        Ok(pinned) => json!({
            "settings": pinned.settings,
            "routes": pinned.routes,
            "vteps": pinned.vteps,
            "attached": pinned.attachments.iter().map(|pin| json!({
                "program": pin.program,
                "ifindex": pin.ifindex,
                "interface": interface(pin.ifindex),
                "by": by(pin.kind),
            })).collect::<Vec<_>>(),
        }),
    };
    table::json(&json!({ "daemon": word(liveness), "status": said, "pins": pins }))
}

fn print_table(
    path: &std::path::Path,
    liveness: Option<Liveness>,
    said: Option<&Status>,
    pinned: &Result<Pinned, String>,
) {
    let mut rows = Vec::new();
    let mut row = |what: &str, value: String| rows.push(vec![what.to_owned(), value]);
    match said {
        None => row(
            "twilld",
            format!("never ran as this instance (no {})", path.display()),
        ),
        Some(said) => {
            row(
                "twilld",
                format!(
                    "{} (process {}, {})",
                    word(liveness),
                    said.pid,
                    said.version
                ),
            );
            row(
                "mode",
                match &said.reason {
                    None => said.mode.clone(),
                    Some(reason) => format!("{}: {reason}", said.mode),
                },
            );
            row("ready", said.ready.to_string());
            row(
                "device",
                format!(
                    "{} {} VNI {} port {} MTU {}",
                    said.device, said.mac, said.vni, said.port, said.mtu
                ),
            );
            row(
                "uplink",
                format!(
                    "{} {}, peers send to {}",
                    said.uplink, said.uplink_address, said.public_ip
                ),
            );
            row("subnet", format!("{} of {}", said.subnet, said.network));
            row("peers", said.peers.to_string());
            row(
                "store",
                format!("{}: {}", said.store.address, said.store.state),
            );
            for attached in &said.attached {
                let others = if attached.others.is_empty() {
                    String::new()
                } else {
                    format!(", beside {}", attached.others.join(", "))
                };
                row(
                    "attached",
                    format!(
                        "{} at {} of {} by {}{others}",
                        attached.program, attached.direction, attached.interface, attached.by
                    ),
                );
            }
            for (kind, count) in &said.errors {
                row("errors", format!("{kind}: {count}"));
            }
            for text in &said.failing {
                row("failing", text.clone());
            }
            for text in &said.conflicts {
                row("conflict", text.clone());
            }
            for text in &said.unmapped {
                row("no room", text.clone());
            }
        }
    }
    match pinned {
        Err(error) => row("pins", error.clone()),
        Ok(pinned) => {
            let settings = &pinned.settings;
            row(
                "pins",
                format!(
                    "mode {}, {} subnets behind {} VTEPs, agent's last sign {} s ago",
                    settings.mode, pinned.routes, pinned.vteps, settings.heartbeat_age_seconds
                ),
            );
            if let Some(operator) = settings.operator {
                row("operator", format!("set the mode to {operator}"));
            }
            for pin in &pinned.attachments {
                row(
                    "pinned",
                    format!(
                        "{} on {} by {}",
                        pin.program,
                        interface(pin.ifindex),
                        by(pin.kind)
                    ),
                );
            }
        }
    }
    table::rows(&["", ""], rows);
}
