//! The flags of `twilld`: flannel's names where flannel has the flag, and flannel's grammar.

mod check;
mod docker;
mod etcd;
mod grammar;
mod kube;
mod log;
mod secret;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};
use ipnetwork::Ipv4Network;
use regex::Regex;
use twill_abi::{FastPath, Guard};

use crate::datapath::attach::AttachBy;
use crate::datapath::attach::filter::Slot;
use crate::datapath::guard::{GuardAttach, GuardOptions};
use crate::datapath::{Options, Sizes};
use crate::instance::InstanceName;
use crate::netlink::UplinkChoice;
use crate::podcidr::args::PodcidrArgs;
use crate::serve::args::ServeArgs;

pub use self::check::{ArgsError, StoreChoice};
pub use self::docker::DockerArgs;
pub use self::etcd::EtcdArgs;
pub use self::kube::KubeArgs;
pub use self::log::{LogArgs, LogFormat};
pub use self::secret::Secret;
use self::values::{
    file, go_bool, ipv4, listen_ip, mark_bit, pattern, period, port, prefix, seconds,
};

const UPLINK: &str = "Underlay";
const RULES: &str = "Rules and routes of the host";
const FAST_PATH: &str = "Fast path";
const DATAPATH: &str = "Datapath";
const GUARD: &str = "Guard";
const HEALTH: &str = "Health";
const STORE: &str = "Lease store: lease server";

/// What the exit code says, for `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  stopped in good order; the datapath goes on forwarding
  1  it cannot run; standard error says why
  2  wrong usage

Flags are flanneld's where flanneld has them, and are read as flanneld reads them: with one
dash or two, --flag=value or --flag value, and true or false as --flag=false. Each may stand
in the environment instead, as FLANNELD_PUBLIC_IP for --public-ip.";

/// Joins this node to the overlay, as flanneld would, with BPF carrying the packets.
#[derive(Debug, Parser)]
#[command(
    name = "twilld",
    version,
    long_version = crate::datapath::object::BUILD,
    after_help = EXIT_CODES,
    args_conflicts_with_subcommands = true,
    args_override_self = true
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
    /// Writes Docker's options for the node's subnet, as flannel's mk-docker-opts.sh.
    MkDockerOpts(DockerArgs),
    /// Gives Nodes of Kubernetes their podCIDR, where the controller manager does not.
    Podcidr(Box<PodcidrArgs>),
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

/// What becomes of VXLAN that no peer sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum GuardChoice {
    /// It is not looked at.
    Off,
    /// It is counted, and goes on as with flannel.
    Count,
    /// It is dropped, while this agent hears of every lease; else counted.
    Enforce,
}

impl From<GuardChoice> for Guard {
    fn from(choice: GuardChoice) -> Self {
        match choice {
            GuardChoice::Off => Self::Off,
            GuardChoice::Count => Self::Count,
            GuardChoice::Enforce => Self::Enforce,
        }
    }
}

/// The agent's flags.
#[derive(Args, Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "flannel's flags, each a truth of its own"
)]
pub struct AgentArgs {
    /// Underlay interface, by name or address. Given several times, the first that is
    /// there. Without it: that of --public-ip, else that of the default route.
    #[arg(long, value_name = "NAME|IP", help_heading = UPLINK)]
    pub iface: Vec<String>,
    /// Underlay interface, by an expression that its address or name matches, where no --iface
    /// is there; may be given several times.
    #[arg(long, value_name = "REGEX", value_parser = pattern, help_heading = UPLINK)]
    pub iface_regex: Vec<Regex>,
    /// Underlay interface: the one by which this address is reached, if neither --iface nor
    /// --iface-regex finds one.
    #[arg(long, value_name = "IP", value_parser = ipv4, help_heading = UPLINK)]
    pub iface_can_reach: Option<Ipv4Addr>,
    /// The address that other nodes send to, where it is not the interface's.
    #[arg(long, value_name = "IP", value_parser = ipv4, help_heading = UPLINK)]
    pub public_ip: Option<Ipv4Addr>,
    /// The same for IPv6.
    #[arg(long, value_name = "IP", help_heading = UPLINK)]
    pub public_ipv6: Option<Ipv6Addr>,
    /// The lease server's URL: http, host and port, as `http://192.0.2.1:7890`. Without it and
    /// without --kube-subnet-mgr, leases are in etcd.
    #[arg(long, value_name = "URL", help_heading = STORE)]
    pub lease_server: Option<String>,
    /// Leases in etcd.
    #[command(flatten)]
    pub etcd: EtcdArgs,
    /// Leases in Kubernetes.
    #[command(flatten)]
    pub kube: KubeArgs,
    /// Where the subnet is written for CNI plugins; with an empty name nowhere.
    #[arg(
        long,
        value_name = "FILE",
        value_parser = file,
        default_value = "/run/flannel/subnet.env",
        help_heading = RULES
    )]
    pub subnet_file: PathBuf,
    /// Masquerade what leaves the overlay, by rules as flannel's, and tell CNI plugins so.
    /// Without it the bridge plugin masquerades by itself, pods of other nodes included, and
    /// such flows are never fast.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = go_bool,
          help_heading = RULES)]
    pub ip_masq: bool,
    /// Masquerade without fully random source ports.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = go_bool,
          help_heading = RULES)]
    pub ip_masq_fully_random_disable: bool,
    /// Rules that accept the overlay's packets in the FORWARD chain.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", value_parser = go_bool,
          help_heading = RULES)]
    pub iptables_forward_rules: bool,
    /// How often these rules are looked at again; at least 1. The blackhole route is looked at
    /// with everything else, see --resync-interval.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "5",
        value_parser = period,
        help_heading = RULES
    )]
    pub iptables_resync: Duration,
    /// A blackhole route for the own subnet, so that packets for pods that are not there do not
    /// leave the node.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = go_bool,
          help_heading = RULES)]
    pub ip_blackhole_route: bool,
    /// Which flows may skip the host's stack.
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        default_value = "permit",
        help_heading = FAST_PATH
    )]
    pub fast_path: FastPathChoice,
    /// How long netfilter's acceptance of a flow is remembered. At most half of the smallest
    /// conntrack timeout that applies is used.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = seconds,
        help_heading = FAST_PATH
    )]
    pub permit_time: Duration,
    /// The one bit of the packet mark that netfilter's acceptance is told by. kube-proxy has
    /// 0x4000 and 0x8000, Calico 0xffff0000.
    #[arg(
        long,
        value_name = "BIT",
        default_value = "0x1000",
        value_parser = mark_bit,
        help_heading = FAST_PATH
    )]
    pub mark_bit: u32,
    /// Addresses whose flows are never fast, as `10.244.1.7/32`; may be given several times.
    #[arg(long, value_name = "PREFIX", value_parser = prefix, help_heading = FAST_PATH)]
    pub exclude: Vec<Ipv4Network>,
    /// Host-side veths whose flows are never fast, by name; may be given several times.
    #[arg(long, value_name = "NAME", help_heading = FAST_PATH)]
    pub exclude_link: Vec<String>,
    /// What becomes of VXLAN that no peer sent, or that is not as a peer would send it.
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value = "count",
        help_heading = GUARD
    )]
    pub guard: GuardChoice,
    /// Where that is looked for: XDP in the driver or in the stack, or TC. What cannot be had is
    /// done by TC, and twillctl status says why.
    #[arg(
        long,
        value_enum,
        value_name = "WHERE",
        default_value = "auto",
        help_heading = GUARD
    )]
    pub guard_attach: GuardAttach,
    /// Let pods send to the nodes' VXLAN port: for overlays that end on the nodes of this one. A
    /// VXLAN among pods does not need it.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = go_bool,
          help_heading = GUARD)]
    pub allow_pod_vxlan: bool,
    /// Address that /healthz and /readyz are on.
    #[arg(long, value_name = "IP", value_parser = listen_ip, default_value = "0.0.0.0",
          help_heading = HEALTH)]
    pub healthz_ip: IpAddr,
    /// Port that /healthz and /readyz are on; 0: nowhere.
    #[arg(
        long,
        value_name = "PORT",
        default_value = "0",
        value_parser = port,
        help_heading = HEALTH
    )]
    pub healthz_port: u16,
    /// Name of this agent, where several share a kernel.
    #[arg(long, value_name = "NAME", default_value = "default", help_heading = DATAPATH)]
    pub instance: InstanceName,
    /// Where the agent keeps its status and its lock, in a folder of the instance's name.
    #[arg(long, value_name = "DIR", default_value = "/run/twill", help_heading = DATAPATH)]
    pub run_dir: PathBuf,
    /// Where the agent keeps what outlives a boot, in a folder of the instance's name: its last
    /// lease, for a start without the lease store.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/twill", help_heading = DATAPATH)]
    pub state_dir: PathBuf,
    /// Who carries packets.
    #[arg(
        long,
        value_enum,
        value_name = "WHO",
        default_value = "bpf",
        help_heading = DATAPATH
    )]
    pub datapath: DatapathChoice,
    /// Where the BPF file system is mounted, or is to be.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf", help_heading = DATAPATH)]
    pub bpffs: PathBuf,
    /// How programs are attached.
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "auto",
        help_heading = DATAPATH
    )]
    pub attach_by: AttachBy,
    /// Priority of our tc filters, where they are used; lower ones run first.
    #[arg(long, value_name = "NUMBER", default_value_t = Slot::default().priority,
          value_parser = clap::value_parser!(u16).range(1..), help_heading = DATAPATH)]
    pub tc_priority: u16,
    /// Handle of our tc filters, where they are used.
    #[arg(long, value_name = "NUMBER", default_value_t = Slot::default().handle,
          value_parser = clap::value_parser!(u32).range(1..), help_heading = DATAPATH)]
    pub tc_handle: u32,
    /// Room for other nodes in the maps.
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().vteps,
          value_parser = map_size(), help_heading = DATAPATH)]
    pub max_vteps: u32,
    /// Room for subnets in the maps.
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().routes,
          value_parser = map_size(), help_heading = DATAPATH)]
    pub max_routes: u32,
    /// Room for flows in the maps.
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().permits,
          value_parser = map_size(), help_heading = DATAPATH)]
    pub max_permits: u32,
    /// How often everything is looked at again, changed or not.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = seconds,
        help_heading = DATAPATH
    )]
    pub resync_interval: Duration,
}

/// A million entries are some hundred megabytes; more is a slip of the hand.
fn map_size() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 20)
}

impl Twilld {
    /// Reads a command line and an environment as flanneld does, and says what it left out.
    pub fn read(
        words: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> Result<(Self, Vec<String>), clap::Error> {
        let mut command = Self::command();
        command.build();
        let line = grammar::normalise(&command, words, environment);
        if let Some(why) = line.refused {
            return Err(command.error(clap::error::ErrorKind::ValueValidation, why));
        }
        let program = OsString::from(command.get_name());
        let matches = command.try_get_matches_from(std::iter::once(program).chain(line.words))?;
        Ok((Self::from_arg_matches(&matches)?, line.ignored))
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
                // To flannel an entry without text is no choice at all, at its place in the order.
                Err(_) if text.is_empty() => UplinkChoice::DefaultRoute,
                Err(_) => UplinkChoice::Name(text.clone()),
            })
            .collect();
        let patterns = self.iface_regex.iter();
        choices.extend(patterns.map(|pattern| match pattern.as_str() {
            "" => UplinkChoice::DefaultRoute,
            _ => UplinkChoice::Matching(pattern.clone()),
        }));
        choices.extend(self.iface_can_reach.map(UplinkChoice::CanReach));
        if !self.names_uplink() {
            choices.push(match self.public_ip {
                Some(address) => UplinkChoice::Address(address.into()),
                None => UplinkChoice::DefaultRoute,
            });
        }
        choices
    }

    /// Whether a flag names the underlay interface.
    pub fn names_uplink(&self) -> bool {
        !(self.iface.is_empty() && self.iface_regex.is_empty()) || self.iface_can_reach.is_some()
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
            guard: GuardOptions {
                guard: self.guard.into(),
                attach: self.guard_attach,
            },
            exclude: self.exclude.clone(),
        }
    }

    /// Whether CNI plugins are told the subnet.
    pub fn has_subnet_file(&self) -> bool {
        !self.subnet_file.as_os_str().is_empty()
    }

    /// The instance's run directory.
    pub fn instance_dir(&self) -> PathBuf {
        self.run_dir.join(self.instance.as_str())
    }

    /// Where the last lease is kept.
    pub fn lease_file(&self) -> PathBuf {
        self.state_dir
            .join(self.instance.as_str())
            .join("lease.json")
    }
}
