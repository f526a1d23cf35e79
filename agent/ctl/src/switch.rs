//! `twillctl mode` and `twillctl fast-path`: the operator's word, which goes before the agent's,
//! holds from the next packet on, and needs no agent.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::json;
use twill_abi::{CONFIG_FLAG_STALE, FastPath, Mode, PERMIT_FLAG_DIRECT, Program};

use super::{Place, table};
use twill_datapath::operator::{Override, Switch, Word};
use twill_datapath::pins::Pins;
use twill_datapath::reader;
use twill_files::status;

/// Who shall carry packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ModeChoice {
    /// The programs work.
    Bpf,
    /// Every program passes every packet on.
    Kernel,
    /// As twilld says.
    Auto,
}

/// Which flows shall skip the host's stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FastPathChoice {
    /// Those that netfilter has accepted a moment ago.
    Permit,
    /// As permit, and pod to pod from the first packet, past netfilter.
    Direct,
    /// None.
    Off,
    /// As twilld says.
    Auto,
}

pub(super) fn mode(place: &Place, choice: Option<ModeChoice>) -> Result<ExitCode> {
    let pins = place.pins();
    let mut switch = Switch::open(&pins).context("open the pins")?;
    if let Some(choice) = choice {
        let mode = match choice {
            ModeChoice::Bpf => Some(Mode::Bpf),
            ModeChoice::Kernel => Some(Mode::Kernel),
            ModeChoice::Auto => None,
        };
        let before = switch.operator()?;
        set(&pins, &mut switch, Override { mode, ..before })?;
    }
    let mut notes = Vec::new();
    let word = switch.mode()?;
    if word.holds == "bpf" && !attached(&pins, Program::ToOverlay)? {
        notes.push("no program of this instance is attached, so the kernel carries the packets");
    }
    tell(place, "mode", word, &notes)
}

pub(super) fn fast_path(place: &Place, choice: Option<FastPathChoice>) -> Result<ExitCode> {
    let pins = place.pins();
    let mut switch = Switch::open(&pins).context("open the pins")?;
    if let Some(choice) = choice {
        let fast_path = match choice {
            FastPathChoice::Permit => Some(FastPath::Permit),
            FastPathChoice::Direct => Some(FastPath::Direct),
            FastPathChoice::Off => Some(FastPath::Off),
            FastPathChoice::Auto => None,
        };
        if matches!(fast_path, Some(FastPath::Permit | FastPath::Direct)) {
            can_be_on(place, &switch)?;
        }
        let before = switch.operator()?;
        set(
            &pins,
            &mut switch,
            Override {
                fast_path,
                ..before
            },
        )?;
    }
    let mut notes = Vec::new();
    let word = switch.fast_path()?;
    if word.holds != "off" && switch.mode()?.holds == "kernel" {
        notes.push("the mode is kernel, so no flow is fast all the same");
    }
    if word.holds != "off" && !attached(&pins, Program::FromPod)? {
        notes.push("no program is attached to a pod, so no flow is fast");
    }
    tell(place, "fast-path", word, &notes)
}

/// Where the agent itself has the fast path off, there is nothing to switch on: neither programs
/// on the pods nor the rules that tell what netfilter accepts.
fn can_be_on(place: &Place, switch: &Switch) -> Result<()> {
    if switch.fast_path()?.agent != "off" {
        return Ok(());
    }
    let path = status::path(&place.run_dir, place.instance.as_str());
    let said = status::read(&path).ok().flatten();
    // Off for somebody's policy on the uplink: all that the fast path rests on is there, and
    // whether to go past that policy is the operator's to say.
    let stale = switch.agent()?.flags & CONFIG_FLAG_STALE != 0;
    let wanted = said
        .as_ref()
        .is_some_and(|said| ["permit", "direct"].contains(&said.fast_path.wanted.as_str()));
    if wanted && !stale {
        return Ok(());
    }
    let reason = said
        .and_then(|said| said.fast_path.reason)
        .unwrap_or_else(|| "no reason is known".to_owned());
    bail!(
        "the fast path cannot be switched on here: twilld itself has it off ({reason}), so no \
         program is on the pods' veths and nothing marks what netfilter accepts; run twilld \
         with --fast-path=permit or --fast-path=direct"
    )
}

/// Writes the override. Records that were made past netfilter end with the mode that made them:
/// they would be used again when it comes back, whatever the stack does with their tuples meanwhile.
fn set(pins: &Pins, switch: &mut Switch, wanted: Override) -> Result<()> {
    let found = switch.set(wanted).context("write the override")?;
    if found != wanted {
        bail!("the override reads {found:?} after it was set to {wanted:?}");
    }
    if switch.fast_path()?.holds != "direct" || switch.mode()?.holds != "bpf" {
        reader::permits(pins)
            .and_then(|mut permits| {
                Ok(permits.end(|_, record| record.flags & PERMIT_FLAG_DIRECT != 0)?)
            })
            .context("the switch is set; end the records of the mode direct")?;
    }
    Ok(())
}

fn attached(pins: &Pins, program: Program) -> Result<bool> {
    let attachments = pins.attachments().context("read the pins")?;
    Ok(attachments.iter().any(|pin| pin.program == program.label()))
}

fn tell(place: &Place, what: &str, word: Word, notes: &[&str]) -> Result<ExitCode> {
    if place.json {
        table::json(&json!({ what: word, "notes": notes }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Word {
        holds,
        agent,
        operator,
    } = word;
    let whose = match operator {
        None => "as twilld says".to_owned(),
        Some(_) => format!("the operator's override; twilld says {agent}"),
    };
    table::line(&format!("{holds} ({whose})"))?;
    for note in notes {
        table::line(&format!("but {note}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
