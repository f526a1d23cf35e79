//! `twillctl status`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Place, table};
use twill_datapath::attach::Attachment;
use twill_datapath::permit_state::{self, PermitCounts};
use twill_datapath::pins::{AttachmentKind, AttachmentPin};
use twill_datapath::place::Interface;
use twill_datapath::reader::{PinnedSettings, Reader, VtepStates, Way};
use twill_files::status::{self, FastPathStatus, GuardStatus, Liveness, PodStatus, Status};

/// twilld is not running.
const NOT_RUNNING: u8 = 3;
/// twilld is running, and the node is not as it should be.
const NOT_READY: u8 = 4;

/// What the pins say by themselves.
struct Pinned {
    settings: PinnedSettings,
    routes: usize,
    vteps: usize,
    /// Those to which the kernel's packets go by another next hop than BPF's would.
    disputed: usize,
    permits: PermitCounts,
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
        print_table(&path, liveness, said.as_ref(), &pinned)?;
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
    let states = VtepStates::open(&place.pins())?;
    let mut disputed = 0;
    for index in observed.vteps.keys() {
        disputed += usize::from(states.way(*index)? == Some(Way::Disputed));
    }
    Ok(Pinned {
        disputed,
        settings,
        routes: observed.routes.len(),
        vteps: observed.vteps.len(),
        permits: permit_state::count(&reader)?,
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
        AttachmentKind::Xdp(kind) => format!("xdp, {}", kind.label()),
        AttachmentKind::Filter { priority, handle } => {
            format!("netlink, priority {priority}, handle {handle}")
        }
    }
}

pub(super) fn interface(ifindex: u32) -> String {
    Interface::at(ifindex).map_or_else(
        || format!("interface {ifindex}, which is not here"),
        |interface| interface.name,
    )
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
            "disputed": pinned.disputed,
            "permits": pinned.permits,
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

/// What it is about, and what there is to say.
type Row = (&'static str, String);

fn print_table(
    path: &Path,
    liveness: Option<Liveness>,
    said: Option<&Status>,
    pinned: &Result<Pinned, String>,
) -> Result<()> {
    let mut rows = match said {
        None => vec![(
            "twilld",
            format!("never ran as this instance (no {})", path.display()),
        )],
        Some(said) => said_rows(liveness, said),
    };
    match pinned {
        Err(error) => rows.push(("pins", error.clone())),
        Ok(pinned) => rows.extend(pinned_rows(pinned)),
    }
    table::pairs(&rows)
}

fn said_rows(liveness: Option<Liveness>, said: &Status) -> Vec<Row> {
    let mode = match &said.reason {
        None => said.mode.clone(),
        Some(reason) => format!("{}: {reason}", said.mode),
    };
    let ready = match (liveness, said.ready) {
        (Some(Liveness::Alive), true) => "yes",
        (Some(Liveness::Alive), false) => "no",
        // What follows is as it was when twilld wrote it.
        _ => "unknown: twilld is not running",
    };
    let mut rows = vec![
        (
            "twilld",
            format!(
                "{} (process {}, {})",
                word(liveness),
                said.pid,
                said.version
            ),
        ),
        ("mode", mode),
        ("ready", ready.to_owned()),
        device_row(said),
        (
            "uplink",
            format!(
                "{} {}, peers send to {}",
                said.uplink, said.uplink_address, said.public_ip
            ),
        ),
        ("subnet", format!("{} of {}", said.subnet, said.network)),
        ("peers", said.peers.to_string()),
        (
            "store",
            format!("{}: {}", said.store.address, said.store.state),
        ),
    ];
    rows.extend(fast_path_rows(&said.fast_path));
    rows.extend(guard_row(&said.guard));
    let unwatched = said.guard.unwatched.iter();
    rows.extend(unwatched.map(|text| ("not watched", text.clone())));
    rows.extend(said.pods.iter().map(pod_row));
    rows.extend(said.attached.iter().map(attached_row));
    let conditions = said.conditions.iter();
    rows.extend(conditions.map(|it| ("condition", it.text.clone())));
    let errors = said.errors.iter();
    rows.extend(errors.map(|(kind, count)| ("errors", format!("{kind}: {count}"))));
    for (what, texts) in [
        ("failing", &said.failing),
        ("by the kernel", &said.routing),
        ("conflict", &said.conflicts),
        ("no room", &said.unmapped),
    ] {
        rows.extend(texts.iter().map(|text| (what, text.clone())));
    }
    rows
}

/// What carries the overlay, or the backend that needs no device.
fn device_row(said: &Status) -> Row {
    if said.device.is_empty() && !said.backend.is_empty() {
        let row = format!("{}, no device, MTU {}", said.backend, said.mtu);
        return ("backend", row);
    }
    let row = format!(
        "{} {} VNI {} port {} MTU {}",
        said.device, said.mac, said.vni, said.port, said.mtu
    );
    ("device", row)
}

/// Nothing from a twilld that did not know of it yet.
fn fast_path_rows(said: &FastPathStatus) -> Vec<Row> {
    let FastPathStatus {
        wanted,
        mode,
        tcp,
        reason,
        mark_bit,
        permit_milliseconds,
        exclude,
    } = said;
    if wanted.is_empty() {
        return Vec::new();
    }
    let for_tcp = if *tcp || mode == "off" {
        ""
    } else {
        ", not for TCP"
    };
    let reason = reason.iter().map(|reason| format!(": {reason}"));
    let mut rows = vec![(
        "fast path",
        format!("{mode}{for_tcp}{}", reason.collect::<String>()),
    )];
    if mode != "off" {
        let whole = permit_milliseconds / 1000;
        let tenths = permit_milliseconds % 1000 / 100;
        rows.push((
            "permits",
            format!("for {whole}.{tenths} s, told by mark bit {mark_bit}"),
        ));
    }
    rows.extend(exclude.iter().map(|prefix| ("excluded", prefix.clone())));
    rows
}

/// Nothing from a twilld that did not know of it yet.
fn guard_row(said: &GuardStatus) -> Option<Row> {
    let GuardStatus {
        wanted,
        drops,
        waits,
        unwatched: _,
        place,
    } = said;
    if wanted.is_empty() {
        return None;
    }
    let does = match (wanted.as_str(), drops, waits) {
        ("enforce", false, Some(why)) => format!("counts, and drops nothing: {why}"),
        ("enforce", true, _) => "drops".to_owned(),
        (wanted, ..) => wanted.to_owned(),
    };
    let reason = place.reason.iter().map(|reason| format!(" ({reason})"));
    let reason: String = reason.collect();
    Some(("guard", format!("{does}; at {}{reason}", place.by)))
}

fn pod_row(pod: &PodStatus) -> Row {
    let PodStatus {
        interface,
        ifindex: _,
        wiring,
        up,
        never_fast,
    } = pod;
    let down = if *up { "" } else { ", down" };
    let fast = match never_fast {
        None => "may be fast".to_owned(),
        Some(reason) => format!("never fast: {reason}"),
    };
    ("pod", format!("{interface}, {wiring}{down}, {fast}"))
}

fn attached_row(attached: &Attachment) -> Row {
    let others = if attached.others.is_empty() {
        String::new()
    } else {
        format!(", beside {}", attached.others.join(", "))
    };
    let Attachment {
        program,
        direction,
        interface,
        by,
        ..
    } = attached;
    (
        "attached",
        format!("{program} at {direction} of {interface} by {by}{others}"),
    )
}

fn pinned_rows(pinned: &Pinned) -> Vec<Row> {
    let Pinned {
        settings,
        routes,
        vteps,
        disputed,
        permits,
        attachments,
    } = pinned;
    let mut rows = vec![(
        "pins",
        format!(
            "mode {}, {routes} subnets behind {vteps} VTEPs, agent's last sign {} s ago",
            settings.mode, settings.heartbeat_age_seconds
        ),
    )];
    if *disputed != 0 {
        rows.push((
            "by the kernel",
            format!(
                "packets to {disputed} of {vteps} VTEPs, where the kernel takes another next hop \
                 than bpf would (twillctl vteps)"
            ),
        ));
    }
    let PermitCounts {
        live,
        half,
        expired,
        tombstone,
        garbage,
    } = permits;
    let counts = [
        (live, "live"),
        (half, "half"),
        (expired, "expired"),
        (tombstone, "tombstones"),
        (garbage, "garbage"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| **count != 0);
    let counts: Vec<_> = counts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    rows.push((
        "pins",
        format!(
            "fast path {}, permits: {}",
            settings.fast_path.holds,
            if counts.is_empty() {
                "none".to_owned()
            } else {
                counts.join(", ")
            }
        ),
    ));
    let operator = settings.operator.iter();
    rows.extend(operator.map(|mode| ("operator", format!("set the mode to {mode}"))));
    let operator = settings.fast_path.operator.iter();
    rows.extend(operator.map(|word| ("operator", format!("set the fast path to {word}"))));
    rows.extend(attachments.iter().map(|pin| {
        let on = interface(pin.ifindex);
        (
            "pinned",
            format!("{} on {on} by {}", pin.program, by(pin.kind)),
        )
    }));
    rows
}
