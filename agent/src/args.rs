//! The flags of `twilld`: flannel's names where flannel has the flag.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnetwork::Ipv4Network;
use twill_abi::FastPath;
use twill_core::vtep::Vni;

use crate::datapath::filter::Slot;
use crate::datapath::hooks::AttachBy;
use crate::datapath::{Options, Sizes};
use crate::instance::InstanceName;
use crate::netlink::UplinkChoice;
use crate::serve::args::ServeArgs;

/// What the exit code says, for `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  stopped in good order; the datapath goes on forwarding
  1  it cannot run; standard error says why
  2  wrong usage";

/// Joins this node to the overlay, as flanneld would, with BPF carrying the packets.
#[derive(Debug, Parser)]
#[command(
    name = "twilld",
    version,
    long_version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TWILL_BUILD"), ")"),
    after_help = EXIT_CODES,
    args_conflicts_with_subcommands = true
)]
pub struct Twilld {
    /// Another thing to do than to be this node's agent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The agent's flags.
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Flags of both.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What else twilld can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hands out subnets to nodes: the lease server.
    Serve(ServeArgs),
}

/// How twilld logs. `RUST_LOG` says more.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What is logged: error, warn, info, debug, trace, or a filter for each module.
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "RUST_LOG",
        default_value = "info"
    )]
    pub log_level: String,
    /// How.
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Who carries packets, by the operator's word.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum DatapathChoice {
    /// BPF, and the kernel's vxlan device where BPF is not available.
    Bpf,
    /// The kernel's vxlan device alone.
    Kernel,
}

/// Which flows may skip the host's stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FastPathChoice {
    /// Those that netfilter has accepted as established a moment ago, Services included.
    Permit,
    /// As permit, and pod to pod from the first packet, past netfilter: for clusters that have
    /// no policy in it.
    Direct,
    /// None.
    Off,
}

impl From<FastPathChoice> for FastPath {
    fn from(choice: FastPathChoice) -> Self {
        match choice {
            FastPathChoice::Permit => Self::Permit,
            FastPathChoice::Direct => Self::Direct,
            FastPathChoice::Off => Self::Off,
        }
    }
}

/// The agent's flags.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// The lease server's URL: http, host and port, as `http://192.0.2.1:7890`.
    #[arg(long, value_name = "URL")]
    pub lease_server: Option<String>,
    /// Underlay interface, by name or address. Given several times, the first that is
    /// there. Without it: that of --public-ip, else that of the default route.
    #[arg(long, value_name = "NAME|IP")]
    pub iface: Vec<String>,
    /// Underlay interface: the one by which this address is reached, if no --iface is there.
    #[arg(long, value_name = "IP")]
    pub iface_can_reach: Option<Ipv4Addr>,
    /// The address that other nodes send to, where it is not the interface's.
    #[arg(long, value_name = "IP")]
    pub public_ip: Option<Ipv4Addr>,
    /// Where the subnet is written for CNI plugins.
    #[arg(long, value_name = "FILE", default_value = "/run/flannel/subnet.env")]
    pub subnet_file: PathBuf,
    /// Name of this agent, where several share a kernel.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub instance: InstanceName,
    /// Where the agent keeps its status and its lock, in a folder of the instance's name.
    #[arg(long, value_name = "DIR", default_value = "/run/twill")]
    pub run_dir: PathBuf,
    /// Who carries packets.
    #[arg(long, value_enum, value_name = "WHO", default_value = "bpf")]
    pub datapath: DatapathChoice,
    /// Masquerade what leaves the overlay, by nftables rules as flannel's, and tell CNI plugins
    /// so. Without it the bridge plugin masquerades by itself, pods of other nodes included, and
    /// such flows are never fast.
    #[arg(long)]
    pub ip_masq: bool,
    /// Which flows may skip the host's stack.
    #[arg(long, value_enum, value_name = "MODE", default_value = "permit")]
    pub fast_path: FastPathChoice,
    /// How long netfilter's acceptance of a flow is remembered. At most half of the smallest
    /// conntrack timeout that applies is used.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub permit_time: Duration,
    /// The one bit of the packet mark that netfilter's acceptance is told by. kube-proxy has
    /// 0x4000 and 0x8000, Calico 0xffff0000.
    #[arg(long, value_name = "BIT", default_value = "0x1000", value_parser = parse_mark_bit)]
    pub mark_bit: u32,
    /// Addresses whose flows are never fast, as `10.244.1.7/32`; may be given several times.
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    pub exclude: Vec<Ipv4Network>,
    /// Host-side veths whose flows are never fast, by name; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub exclude_link: Vec<String>,
    /// Address that /healthz and /readyz are on.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub healthz_ip: IpAddr,
    /// Port that /healthz and /readyz are on; 0: nowhere.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub healthz_port: u16,
    /// Where the BPF file system is mounted, or is to be.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// How programs are attached.
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub attach_by: AttachBy,
    /// Priority of our tc filters, where they are used; lower ones run first.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    pub tc_priority: u16,
    /// Handle of our tc filters, where they are used.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub tc_handle: u32,
    /// Room for other nodes in the maps.
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().vteps, value_parser = map_size())]
    pub max_vteps: u32,
    /// Room for subnets in the maps.
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().routes, value_parser = map_size())]
    pub max_routes: u32,
    /// Room for flows in the maps.
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().permits, value_parser = map_size())]
    pub max_permits: u32,
    /// How often everything is looked at again, changed or not.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub resync_interval: Duration,
}

/// A million entries are some hundred megabytes; more is a slip of the hand.
fn map_size() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 20)
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds.into())),
        _ => Err("write a whole number of seconds from 1 to 3600".to_owned()),
    }
}

fn parse_prefix(text: &str) -> Result<Ipv4Network, String> {
    let wrong = |error: ipnetwork::IpNetworkError| {
        format!("{error}; write an IPv4 prefix, as 10.244.1.7/32")
    };
    text.parse().map_err(wrong)
}

/// One bit, as `0x1000` or `4096`.
fn parse_mark_bit(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(bit) if bit.is_power_of_two() => Ok(bit),
        _ => Err("write one bit of 32, as 0x1000".to_owned()),
    }
}

impl AgentArgs {
    /// Where the underlay interface may be found, in the order to look.
    pub fn uplink_choices(&self) -> Vec<UplinkChoice> {
        let mut choices: Vec<UplinkChoice> = self
            .iface
            .iter()
            .map(|text| match text.parse() {
                Ok(address) => UplinkChoice::Address(address),
                Err(_) => UplinkChoice::Name(text.clone()),
            })
            .collect();
        choices.extend(self.iface_can_reach.map(UplinkChoice::CanReach));
        if choices.is_empty() {
            choices.push(match self.public_ip {
                Some(address) => UplinkChoice::Address(address.into()),
                None => UplinkChoice::DefaultRoute,
            });
        }
        choices
    }

    /// How the datapath is set up.
    pub fn datapath_options(&self) -> Options {
        Options {
            bpffs: self.bpffs.clone(),
            instance: self.instance.clone(),
            sizes: Sizes {
                vteps: self.max_vteps,
                routes: self.max_routes,
                permits: self.max_permits,
            },
            attach_by: self.attach_by,
            slot: Slot {
                priority: self.tc_priority,
                handle: self.tc_handle,
            },
        }
    }

    /// The instance's run directory.
    pub fn instance_dir(&self) -> PathBuf {
        self.run_dir.join(self.instance.as_str())
    }
}

/// Name of the vxlan device, flannel's.
pub fn device_name(vni: Vni) -> String {
    format!("flannel.{vni}")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(words: &[&str]) -> Result<Twilld, clap::Error> {
        Twilld::try_parse_from(std::iter::once(&"twilld").chain(words))
    }

    fn choices(words: &[&str]) -> Vec<UplinkChoice> {
        parse(words).unwrap().agent.uplink_choices()
    }

    #[test]
    fn clap_finds_no_contradiction() {
        Twilld::command().debug_assert();
    }

    #[test]
    fn the_uplink_is_looked_for_in_flannel_s_order() {
        let ip: Ipv4Addr = "192.0.2.1".parse().unwrap();
        assert_eq!(choices(&[]), [UplinkChoice::DefaultRoute]);
        assert_eq!(
            choices(&["--public-ip", "192.0.2.1"]),
            [UplinkChoice::Address(ip.into())]
        );
        assert_eq!(
            choices(&[
                "--iface-can-reach=192.0.2.1",
                "--iface=eth1",
                "--iface",
                "192.0.2.1",
                "--public-ip=203.0.113.1",
            ]),
            [
                UplinkChoice::Name("eth1".to_owned()),
                UplinkChoice::Address(ip.into()),
                UplinkChoice::CanReach(ip),
            ]
        );
    }

    #[test]
    fn a_wrong_value_is_answered_with_flag_and_value() {
        for (words, flag) in [
            (["--public-ip", "1.2.3"], "--public-ip"),
            (["--instance", "a.b"], "--instance"),
            (["--datapath", "fast"], "--datapath"),
            (["--healthz-port", "70000"], "--healthz-port"),
            (["--tc-priority", "0"], "--tc-priority"),
            (["--max-vteps", "0"], "--max-vteps"),
            (["--max-permits", "9999999"], "--max-permits"),
            (["--resync-interval", "0"], "--resync-interval"),
            (["--exclude", "10.244.0.0/33"], "--exclude"),
            (["--mark-bit", "0x3000"], "--mark-bit"),
        ] {
            let text = parse(&words).unwrap_err().to_string();
            assert!(text.contains(flag), "{text}");
            assert!(text.contains(words[1]), "{text}");
        }
    }

    #[test]
    fn the_lease_server_is_a_subcommand() {
        let parsed = parse(&["serve", "--network-config", "n.json", "--data-dir", "d"]).unwrap();
        assert!(matches!(parsed.command, Some(Command::Serve(_))));
    }
}
