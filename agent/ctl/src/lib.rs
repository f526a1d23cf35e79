//! `twillctl`: what the pins and the status file say, and taking away what is ours.
//!
//! Needs no running agent. Everything can be had as JSON; the tables are for people and may
//! change.

#![forbid(unsafe_code)]

mod counters;
pub mod explain;
pub mod permits;
mod status;
mod strangers;
pub mod switch;
mod table;
mod teardown;
mod vteps;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use self::counters::Which;
use self::teardown::{Device, Sysctl};
use twill_core::instance::InstanceName;
use twill_datapath::pins::Pins;

/// What the exit code says, for `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed, or a part of it did; standard error says what
  2  wrong usage
  3  status: twilld is not running
  4  status: twilld is running, and the node is not as it should be yet";

/// Looks at a Twill node and takes Twill off it again.
#[derive(Debug, Parser)]
#[command(name = "twillctl", version, after_help = EXIT_CODES)]
pub struct Ctl {
    /// Options of all commands.
    #[command(flatten)]
    pub place: Place,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which agent, and how to print.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Name of the agent.
    #[arg(long, global = true, value_name = "NAME", default_value = "default")]
    pub instance: InstanceName,
    /// The agent's --run-dir.
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/twill")]
    pub run_dir: PathBuf,
    /// The agent's --bpffs.
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// What twillctl can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Says whether twilld runs, who carries packets, and what is attached.
    Status,
    /// Lists the VTEPs of other nodes with what was sent to them and came from them.
    Vteps,
    /// Lists who sent VXLAN to this node and is no VTEP, the last one first. Sources may be
    /// invented.
    Strangers,
    /// Lists how many packets each program carried or passed on, and why.
    Counters {
        /// Zeroes too.
        #[arg(long, conflicts_with = "slow")]
        all: bool,
        /// Only what kept packets from the fast path, the most frequent first: expected (without
        /// them there would be no fast ones), nature (of the packet or the flow), or to look at.
        #[arg(long)]
        slow: bool,
    },
    /// Lists, ends and watches permits: netfilter's acceptance of flows, remembered.
    Permits {
        /// What to do with them.
        #[command(subcommand)]
        command: permits::Command,
    },
    /// Says in one sentence whether a flow of a pod of this node is fast now, and why not.
    Explain(explain::Flow),
    /// Says who carries packets, or sets it: a switch that needs no twilld, holds from the next
    /// packet on, and stays until it is set to auto.
    Mode {
        /// Who; without it, what holds is printed.
        #[arg(value_enum, value_name = "WHO")]
        who: Option<switch::ModeChoice>,
    },
    /// Says which flows may skip the host's stack, or sets it: as mode, a switch that needs no
    /// twilld.
    FastPath {
        /// Which; without it, what holds is printed.
        #[arg(value_enum, value_name = "WHICH")]
        which: Option<switch::FastPathChoice>,
    },
    /// Leaves the node to flannel: detaches the programs, removes the nftables table and the maps,
    /// and leaves the vxlan device with all that hangs on it, so that flannel can start on it
    /// without losing a flow. Stop twilld first.
    Handover {
        /// Puts the kernel's defaults of the four conntrack settings back. Breaks every flow
        /// that was ever fast and is still alive.
        #[arg(long)]
        restore_sysctl: bool,
    },
    /// Takes away everything that Twill made: attached programs, the nftables table, maps, the
    /// vxlan device if it is ours. Goes on after an error. What others made stays, and so do the
    /// conntrack settings that flows which were ever fast need.
    Teardown {
        /// Even while twilld runs, which would put things back.
        #[arg(long)]
        force: bool,
        /// Puts the kernel's defaults of the four conntrack settings back. Breaks every flow
        /// that was ever fast and is still alive.
        #[arg(long)]
        restore_sysctl: bool,
    },
}

impl Place {
    fn pins(&self) -> Pins {
        Pins::new(&self.bpffs, &self.instance)
    }
}

/// Does what was asked for.
pub async fn run(ctl: &Ctl) -> Result<ExitCode> {
    let place = &ctl.place;
    match &ctl.command {
        Command::Status => status::run(place),
        Command::Vteps => vteps::run(place),
        Command::Strangers => strangers::run(place),
        Command::Counters { all, slow } => {
            let which = match (all, slow) {
                (_, true) => Which::Slow,
                (true, false) => Which::All,
                (false, false) => Which::Moved,
            };
            counters::run(place, which)
        }
        Command::Permits { command } => permits::run(place, command).await,
        Command::Explain(flow) => explain::run(place, *flow),
        Command::Mode { who } => switch::mode(place, *who),
        Command::FastPath { which } => switch::fast_path(place, *which),
        Command::Handover { restore_sysctl } => {
            let sysctl = Sysctl::asked(*restore_sysctl);
            teardown::run(place, false, Device::Leave, sysctl).await
        }
        Command::Teardown {
            force,
            restore_sysctl,
        } => {
            let sysctl = Sysctl::asked(*restore_sysctl);
            teardown::run(place, *force, Device::Remove, sysctl).await
        }
    }
}
