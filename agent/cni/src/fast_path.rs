//! A pod's place in the node's fast path: entered after ADD, given up after DEL.
//!
//! The daemon does the same by what it hears of the kernel. Here it is done at once, and also while
//! there is no daemon. What does not work is said and fails nothing: such a pod's packets are the
//! kernel's to carry.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use thiserror::Error;
use twill_abi::{CONFIG_FLAG_EXCLUDED_LINKS, Config, FastPath, Program};
use twill_core::chain::chain;
use twill_core::instance::{InstanceName, ParseInstanceError};
use twill_core::pods::{Excluded, OurFilters, PodVeth, Rules, find, with_programs};
use twill_core::subnet::Subnet;
use twill_datapath::attach::filter::Slot;
use twill_datapath::permits::VethUse;
use twill_datapath::pinned::{Pinned, PinnedError};
use twill_datapath::pins::Pins;
use twill_datapath::place::Interface;
use twill_netlink::Netlink;

use crate::chain as plugins;
use crate::commands::say;
use crate::config::{NetConf, Object};
use crate::subnet_env::SubnetEnv;

/// Where the BPF file system is, if the config does not say.
const BPFFS: &str = "/sys/fs/bpf";
/// The daemon's instance, if the config does not say.
const INSTANCE: &str = "default";
/// How long others may hold the pins: a plugin does for milliseconds, and a daemon that does for
/// longer is about to see the pod itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a pod is not entered, or not given up.
#[derive(Debug, Error)]
enum FastPathError {
    /// There is no runtime for netlink.
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    /// The config names no instance.
    #[error("\"instance\" of \"twill\"")]
    Instance(#[from] ParseInstanceError),
    /// Something about the pins.
    #[error(transparent)]
    Pinned(Box<PinnedError>),
    /// Something about the host's links.
    #[error(transparent)]
    Netlink(#[from] twill_netlink::Error),
    /// The pins are another node's: several may share a kernel.
    #[error("the pins in {} are of another network namespace or subnet", .0.display())]
    OtherNode(PathBuf),
}

impl From<PinnedError> for FastPathError {
    fn from(error: PinnedError) -> Self {
        Self::Pinned(Box::new(error))
    }
}

/// Enters the pod that a delegate has just wired, by what it answered.
pub(crate) fn enter(conf: &NetConf, env: &SubnetEnv, result: &[u8]) {
    let names = host_links(&serde_json::from_slice(result).unwrap_or_default());
    tell(
        "enter the pod",
        with_pins(conf, async |pinned, netlink| {
            let own_subnet = own_subnet(pinned.config());
            let is_ours = env
                .subnet
                .is_some_and(|subnet| own_subnet == Some(Subnet::containing(subnet)));
            let Some(own_subnet) = own_subnet.filter(|_| is_ours) else {
                return Err(FastPathError::OtherNode(pinned.folder().to_owned()));
            };
            // The daemon has programs on pods only where their flows may be fast.
            if pinned.config().fast_path == FastPath::Off as u32 {
                return Ok(());
            }
            for (ifindex, pod) in look(pinned, netlink, own_subnet, &names).await? {
                enter_one(conf, pinned, ifindex, &pod).await?;
            }
            Ok(())
        }),
    );
}

async fn enter_one(
    conf: &NetConf,
    pinned: &mut Pinned,
    ifindex: u32,
    pod: &PodVeth,
) -> Result<(), FastPathError> {
    let has_daemon = pinned.has_daemon()?;
    let is_last = || {
        let folder = plugins::folder(text(conf, "confDir"));
        plugins::is_harmless(&folder, &conf.name).unwrap_or_else(|error| {
            say(&format!(
                "fast path: look for lists in {}: {error}",
                folder.display()
            ));
            false
        })
    };
    // A filter needs a qdisc, in the place that a plugin behind us may want for its own.
    if pinned.attaches_by_filter() && (has_daemon || !is_last()) {
        return Ok(());
    }
    let by_name = pinned.config().flags & CONFIG_FLAG_EXCLUDED_LINKS != 0;
    let known = has_daemon || (!by_name && is_last());
    let entered_as = match pod.never_fast {
        None if known => VethUse::Fast,
        // The daemon will look again.
        _ => VethUse::NeverFast,
    };
    let interface = Interface {
        name: pod.name.clone(),
        ifindex,
    };
    Ok(pinned.add_pod(&interface, entered_as).await?)
}

/// Gives up every pod whose link is gone, and the one that a delegate has just taken away.
pub(crate) fn leave(conf: &NetConf) {
    let names = host_links(conf.prev_result.as_ref().unwrap_or(&Value::Null));
    tell(
        "give up pods",
        with_pins(conf, async |pinned, _| {
            let mut gone: BTreeSet<u32> = pinned.pods()?;
            let of_this_pod: BTreeSet<u32> = names
                .iter()
                .filter_map(|name| if_nametoindex(name.as_str()).ok())
                .collect();
            gone.retain(|ifindex| {
                of_this_pod.contains(ifindex) || Interface::at(*ifindex).is_none()
            });
            if !gone.is_empty() {
                pinned.remove_pods(&gone).await?;
            }
            Ok(())
        }),
    );
}

fn tell(what: &str, outcome: Result<(), FastPathError>) {
    if let Err(error) = outcome {
        say(&format!("fast path: {what}: {}", chain(&error)));
    }
}

/// Does something with the node's pins, if there are any.
fn with_pins(
    conf: &NetConf,
    work: impl AsyncFnOnce(&mut Pinned, &Netlink) -> Result<(), FastPathError>,
) -> Result<(), FastPathError> {
    let instance: InstanceName = text(conf, "instance").unwrap_or(INSTANCE).parse()?;
    let bpffs = Path::new(text(conf, "bpffs").unwrap_or(BPFFS));
    if !Pins::new(bpffs, &instance).current().exists() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(FastPathError::Runtime)?;
    runtime.block_on(async {
        let Some(mut pinned) = Pinned::open(bpffs, &instance, PATIENCE).await? else {
            return Ok(());
        };
        let netlink = Netlink::connect()?;
        if !is_this_node(pinned.config(), &netlink).await? {
            return Err(FastPathError::OtherNode(pinned.folder().to_owned()));
        }
        work(&mut pinned, &netlink).await
    })
}

/// Whether the pins are of the namespace that we are in: an interface index means nothing
/// elsewhere.
async fn is_this_node(config: &Config, netlink: &Netlink) -> Result<bool, FastPathError> {
    let Some(link) = Interface::at(config.overlay_ifindex) else {
        return Ok(false);
    };
    let device = netlink.device(&link.name).await?;
    Ok(device.is_some_and(|device| device.mac.0 == config.vtep_mac))
}

/// Pods by the names of their links on the node, judged as the daemon judges them.
async fn look(
    pinned: &Pinned,
    netlink: &Netlink,
    own_subnet: Subnet,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<u32, PodVeth>, FastPathError> {
    let host = netlink.host_links(own_subnet).await?;
    let Slot { priority, handle } = pinned.slot();
    let mut rules = Rules {
        own_subnet,
        uplink: Some(pinned.config().uplink_ifindex),
        our_filters: OurFilters {
            priority,
            handle,
            ingress: Program::FromPod.label().to_owned(),
            egress: Program::ToPod.label().to_owned(),
        },
        foreign_programs: BTreeMap::new(),
        excluded: Excluded::default(),
    };
    let named = |rules: &Rules| {
        let mut pods = find(&host, rules);
        pods.retain(|_, pod| names.contains(&pod.name));
        pods
    };
    let links = with_programs(&host, &named(&rules)).into_iter();
    let links: Vec<_> = links
        .map(|(ifindex, name)| Interface { name, ifindex })
        .collect();
    rules.foreign_programs = pinned.foreign_programs(&links)?;
    Ok(named(&rules))
}

fn own_subnet(config: &Config) -> Option<Subnet> {
    let address = IpAddr::from(config.own_subnet);
    let network = IpNetwork::new(address, config.own_prefix_v4).ok()?;
    Some(Subnet::containing(network))
}

/// The links of a result that are the node's, not the pod's.
fn host_links(result: &Value) -> BTreeSet<String> {
    let interfaces = result["interfaces"].as_array();
    let interfaces = interfaces.map_or(&[][..], Vec::as_slice);
    let is_hosts = |interface: &&Value| {
        let sandbox = interface["sandbox"].as_str();
        sandbox.is_none_or(str::is_empty)
    };
    let name = |interface: &Value| Some(interface["name"].as_str()?.to_owned());
    interfaces
        .iter()
        .filter(is_hosts)
        .filter_map(name)
        .collect()
}

/// What the config says to us about Twill, beside what flannel's plugin knows.
fn text<'a>(conf: &'a NetConf, key: &str) -> Option<&'a str> {
    let twill: Option<&Object> = conf.twill.as_ref().and_then(Value::as_object);
    twill?.get(key)?.as_str().filter(|text| !text.is_empty())
}
