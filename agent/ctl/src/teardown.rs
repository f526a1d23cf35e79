//! `twillctl teardown` and `twillctl handover`: take Twill off the node, step by step and past
//! errors. Teardown takes everything that Twill made; handover leaves the node to flannel as
//! flannel would have left it, so that no flow is lost.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::json;

use super::{Place, table};
use twill_core::chain::chain;
use twill_datapath::crash;
use twill_datapath::detach_all;
use twill_files::status::{self, Liveness};
use twill_netfilter::{Conntrack, PermitTable, TimeoutTable};
use twill_netlink::Netlink;

#[derive(Serialize)]
struct Step {
    what: String,
    error: Option<String>,
}

/// Why the conntrack settings stay.
const KEPT: &str = "left as they are: a flow that was ever fast needs them for as long as it \
                    lives; --restore-sysctl puts the kernel's defaults back, which breaks such flows";

/// What becomes of the conntrack settings that fast flows needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sysctl {
    /// They stay: flows that were ever fast may be alive.
    Keep,
    /// The kernel's defaults, by the word of somebody who knows that none is.
    Restore,
}

impl Sysctl {
    pub(super) fn asked(restore: bool) -> Self {
        if restore { Self::Restore } else { Self::Keep }
    }
}

/// What becomes of the vxlan device that Twill made, and of what hangs on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Device {
    /// It goes.
    Remove,
    /// It stays with its addresses, neighbours, FDB entries and routes, and is nobody's from
    /// here on: flannel takes it as its own.
    Leave,
}

pub(super) async fn run(
    place: &Place,
    force: bool,
    device: Device,
    sysctl: Sysctl,
) -> Result<ExitCode> {
    let status_path = status::path(&place.run_dir, place.instance.as_str());
    let alive = match status::read(&status_path) {
        Ok(Some(said)) => (said.liveness() == Liveness::Alive).then_some(said.pid),
        // An unreadable status is no reason to keep what it may have spoken of.
        Ok(None) | Err(_) => None,
    };
    if let Some(pid) = alive
        && !force
    {
        bail!(
            "twilld (process {pid}) runs and would put everything back: stop it first, or pass --force"
        );
    }

    let mut steps = Vec::new();
    let pins = place.pins();
    for removal in detach_all(&pins).await {
        steps.push(Step {
            what: removal.what,
            error: removal.result.err().map(|error| chain(&error)),
        });
    }
    let permits = place.instance.table();
    steps.extend(remove_table(&permits).await);
    steps.extend(end_timeouts(&permits, sysctl).await);
    crash::point("table");
    steps.extend(remove_pins(place));
    steps.extend(end_devices(place, device).await);
    if status_path.exists() {
        let removed = std::fs::remove_file(&status_path);
        steps.push(Step {
            what: format!("remove {}", status_path.display()),
            error: removed.err().map(|error| error.to_string()),
        });
        crash::point("status");
    }

    let conntrack = Conntrack::default();
    let kept = match sysctl {
        // Where they cannot be read there is no conntrack, and nothing of ours to tell of.
        Sysctl::Keep => conntrack.changed().unwrap_or_default(),
        Sysctl::Restore => {
            steps.extend(restored(&conntrack));
            Vec::new()
        }
    };

    let failed = steps.iter().any(|step| step.error.is_some());
    if place.json {
        let settings: BTreeMap<_, _> = kept.into_iter().collect();
        let kept = json!({ "settings": settings, "why": KEPT });
        table::json(&json!({ "steps": steps, "kept": kept }))?;
        return Ok(exit_code(failed));
    }
    if steps.is_empty() {
        table::line("nothing of this instance is here")?;
    } else {
        for Step { what, error } in &steps {
            match error {
                None => table::line(&format!("{what}: done"))?,
                Some(error) => table::line(&format!("{what}: {error}"))?,
            }
        }
    }
    if !kept.is_empty() {
        let settings = kept.iter().map(|(name, value)| format!("{name}={value}"));
        let settings = settings.collect::<Vec<_>>().join(", ");
        table::line(&format!("{settings}: {KEPT}"))?;
    }
    Ok(exit_code(failed))
}

fn exit_code(failed: bool) -> ExitCode {
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Removes the table that marks what netfilter accepts, if it is there.
async fn remove_table(permits: &str) -> Option<Step> {
    let removed = match PermitTable::is_there(permits).await {
        Ok(false) => return None,
        Ok(true) => PermitTable::remove(permits).await,
        Err(error) => Err(error),
    };
    Some(Step {
        what: format!("remove the nftables table inet {permits}"),
        error: removed.err().map(|error| chain(&error)),
    })
}

/// Has no further connection get a timeout of ours. Those that have one keep it, as they keep the
/// settings: the table goes with these.
async fn end_timeouts(permits: &str, sysctl: Sysctl) -> Option<Step> {
    let table = format!("nftables table inet {permits}.timeouts");
    let (what, ended) = match sysctl {
        Sysctl::Keep => (
            format!("detach the {table}, whose timeouts stay"),
            TimeoutTable::detach(permits).await,
        ),
        Sysctl::Restore => (
            format!("remove the {table}"),
            TimeoutTable::remove(permits).await,
        ),
    };
    if let Ok(false) = ended {
        return None;
    }
    Some(Step {
        what,
        error: ended.err().map(|error| chain(&error)),
    })
}

fn restored(conntrack: &Conntrack) -> impl Iterator<Item = Step> {
    conntrack
        .restore()
        .into_iter()
        .map(|(name, value, result)| Step {
            what: format!("set {name} to {value}, the kernel's default"),
            error: result.err().map(|error| chain(&error)),
        })
}

fn remove_pins(place: &Place) -> Vec<Step> {
    let pins = place.pins();
    if !pins.instance().exists() {
        return Vec::new();
    }
    let what = format!("remove {}", pins.instance().display());
    let errors = pins.remove_all();
    if errors.is_empty() {
        return vec![Step { what, error: None }];
    }
    errors
        .iter()
        .map(|error| Step {
            what: what.clone(),
            error: Some(chain(error)),
        })
        .collect()
}

/// Removes the vxlan devices that carry this instance's mark, those that it made, or takes the
/// mark off them. One that it found and used has no such mark, and stays as it is.
async fn end_devices(place: &Place, device: Device) -> Vec<Step> {
    let (netlink, devices) = match ours(place).await {
        Ok(found) => found,
        Err(error) => {
            return vec![Step {
                what: "find the vxlan device".to_owned(),
                error: Some(format!("{error:#}")),
            }];
        }
    };
    let mut steps = Vec::new();
    for (name, ifindex) in devices {
        let (what, result) = match device {
            Device::Remove => (
                format!("remove the device {name}"),
                netlink.remove_device(&name, ifindex).await,
            ),
            Device::Leave => (
                format!("take our mark off the device {name}, which stays"),
                netlink.set_alias(&name, ifindex, "").await,
            ),
        };
        steps.push(Step {
            what,
            error: result.err().map(|error| chain(&error)),
        });
        crash::point("device");
    }
    steps
}

async fn ours(place: &Place) -> Result<(Netlink, Vec<(String, u32)>)> {
    let netlink = Netlink::connect().context("connect to the kernel")?;
    let mark = place.instance.device_mark();
    let devices = netlink.vxlan_devices().await.context("list the devices")?;
    let ours = devices
        .into_iter()
        .filter(|device| device.alias.as_deref() == Some(mark.as_str()))
        .map(|device| (device.name, device.ifindex))
        .collect();
    Ok((netlink, ours))
}
