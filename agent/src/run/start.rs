//! From nothing to a node with a lease, each step tried until it works.
//!
//! Whatever an earlier start left in the kernel goes on meanwhile: nothing is removed
//! before the first complete list of leases.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twill_core::backend::Unsuitable;
use twill_core::chain::chain;
use twill_core::config::NetworkConfig;
use twill_core::lease::Lease;
use twill_core::subnet::Subnet;
use twill_core::vtep::MacAddr;

use super::agent::{Agent, Parts, Sources};
use super::checkpoint::CheckpointFile;
use super::conditions::uptime;
use super::memory::Memory;
use super::metrics::{Meters, Metrics};
use super::notice::Notice;
use super::patience::until_done;
use super::report::Report;
use super::store::{store, store_address};
use super::uplink::Finder;
use crate::admin::{self, Readiness, Told};
use crate::args::AgentArgs;
use crate::datapath::pins::Pins;
use crate::files::last_lease::LastLease;
use crate::files::last_store::LastStore;
use crate::files::{FileError, InstanceLock, LockError, host, subnet_env};
use crate::netlink::monitor::{Monitor, RECEIVE_BUFFER_BYTES, Watch};
use crate::netlink::{self, Netlink};
use crate::store::{Beginning, Store, lease_end};

/// Events that wait for the state's owner before their sources wait.
const EVENTS: usize = 1024;

/// How many looks at everything an agent may miss before nobody takes it for ready any more.
const LOOKS_MISSED: u32 = 3;

/// How long an agent that is just stopping may take.
const PREDECESSOR: Duration = Duration::from_secs(5);
/// How often it is asked whether it has.
const LOCK_RETRY: Duration = Duration::from_millis(100);
/// How long the store may take for its first word, where there is a last lease to start with.
const FIRST_WORD: Duration = Duration::from_secs(3);
/// How often systemd is told, at most, that a start without the store goes on.
const SIGN: Duration = Duration::from_secs(2);

/// flannel's words.
const NO_CONFIG: &str = "Couldn't fetch network config";

/// A lease that this node cannot use.
#[derive(Debug, Error)]
#[error(
    "the store leases {subnet}, which is not a /{subnet_len} of the network {network} \
     from {min} to {max}"
)]
struct UnusableLease {
    subnet: Subnet,
    subnet_len: u8,
    network: Subnet,
    min: Ipv4Addr,
    max: Ipv4Addr,
}

/// Brings the node up to its lease and gives the agent that keeps it there.
pub(super) async fn start(args: &AgentArgs, stop: &CancellationToken) -> Result<Agent> {
    let lock = take_lock(args).await?;
    let readiness = Readiness::new(LOOKS_MISSED * args.resync_interval);
    let meters = Meters::default();
    let address = store_address(args)?;
    let mut report = Report::new(args, &address)?;
    report.write();
    if args.healthz_port > 0 {
        let stopped = stop.clone().cancelled_owned();
        let pins = Pins::new(&args.bpffs, &args.instance);
        let metrics = Metrics::new(report.follow(), &meters, pins);
        let told = Told {
            ready: readiness.clone(),
            metrics: Arc::new(move || metrics.text()),
        };
        let health = admin::serve(args.healthz_ip, args.healthz_port, told, stopped).await?;
        tokio::spawn(health);
    }

    let netlink = Netlink::connect().context("talk to the kernel")?;
    let store = store(args)?;

    let mut memory = Memory::new(args, &address);
    let last = memory.last();
    let (beginning, from) = begin(&store, &mut report, last.as_ref(), &address).await;
    let Beginning {
        text,
        config,
        macs,
        public_ips: _,
    } = beginning;
    memory.set_config(&text);
    report.network(&config);
    tell(&config);
    for warning in &config.warnings {
        warn!(warning, "network config");
    }

    if let Some(advice) = bridge_advice(&config, host::bridge_netfilter()) {
        warn!("{advice}");
    }

    let finder = Finder::new(args, &config);
    let (was_at, elsewhere) = earlier(&netlink, &config, last.as_ref()).await;
    let uplink = finder.find(&netlink, was_at, elsewhere).await?;
    if let Err(error @ Unsuitable::Translated { .. }) = config.backend.suits(&uplink) {
        return Err(error.into());
    }

    let last = last.filter(|last| last.lease.attrs.public_ip == uplink.public_ip);
    // Peers know that one still, where the device is gone since.
    let last_mac = last.as_ref().and_then(|last| {
        let peer = config.backend.peer(&last.lease, config.network).ok()?;
        peer.mac()
    });
    let fallback_mac = match macs.v4.or(last_mac) {
        Some(mac) => mac,
        None => MacAddr(host::random_mac()?),
    };
    let mut agent = Agent::new(Parts {
        args: args.clone(),
        netlink: netlink.clone(),
        config: config.clone(),
        finder,
        uplink,
        fallback_mac,
        readiness,
        meters,
        report,
        memory,
        checkpoint: CheckpointFile::new(LastStore::new(&args.instance_dir())),
        lock,
    });
    agent.ensure_link().await;

    let stand_in = last.as_ref().map(|last| &last.lease);
    if from == Origin::LastLease {
        wait_for_the_store(&store, &mut agent, stand_in, &config).await?;
    }
    let previous = subnet_env::previous(&args.subnet_file);
    let previous = previous.or(stand_in.map(|lease| lease.subnet));
    let lease = acquire(&store, &mut agent, previous).await;
    if let Some(own) = agent.state.own_subnet()
        && own != lease.subnet
    {
        agent.memory.forget();
        bail!(
            "Lease has been revoked while the lease store was away: {own} is another node's, this \
             one has {} now; this node's pods must move, start again",
            lease.subnet
        );
    }
    info!(subnet = %lease.subnet, "lease acquired");
    agent.own(&lease).await;
    agent
        .memory
        .keep(lease.clone(), lease_end(lease.ttl_seconds));
    follow(&mut agent, store, lease, stop).await?;
    Ok(agent)
}

/// The address that the node was at before this start, and those of the other nodes: by what
/// flannel or an earlier start left in the kernel, after a boot by the last lease.
async fn earlier(
    netlink: &Netlink,
    config: &NetworkConfig,
    last: Option<&LastLease>,
) -> (Option<Ipv4Addr>, BTreeSet<Ipv4Addr>) {
    let unknown = |error: netlink::Error| {
        warn!(error = %chain(&error), "what is left of an earlier start is not known");
    };
    let links = config.backend.link_name();
    let left = netlink.observe(links, config.network).await;
    let mut left = left.map_err(unknown).unwrap_or_default();
    if config.backend.asks_for_ways() {
        let routes = netlink.underlay_routes(config.network).await;
        left.underlay_routes = routes.map_err(unknown).unwrap_or_default();
    }
    let mut links = left.links.values();
    let local = links.find_map(|link| match link.device.local {
        Some(IpAddr::V4(local)) => Some(local),
        Some(IpAddr::V6(_)) | None => None,
    });
    let was_at = local.or(last.map(|last| last.lease.attrs.public_ip));
    (was_at, left.elsewhere())
}

/// Says in flannel's words which network it is.
fn tell(config: &NetworkConfig) {
    let backend = &config.backend;
    info!(network = %config.network, "Found network config - Backend type: {}", backend.name());
    if let Some(settings) = backend.settings() {
        let mtu = backend.vxlan().and_then(|vxlan| vxlan.mtu);
        info!(mtu, "{settings}");
    }
}

/// What to do where `iptables` does not see what a bridge forwards. By nftables nothing asks for
/// it, as flannel has it too.
fn bridge_advice(config: &NetworkConfig, found: Result<(), FileError>) -> Option<String> {
    let error = found.err().filter(|_| config.nftables != Some(true))?;
    Some(format!(
        "Failed to check br_netfilter: {}: Services that lead to a pod of the same node \
         will not answer; load it with `modprobe br_netfilter`, and at every boot by a line \
         `br_netfilter` in /etc/modules-load.d/br_netfilter.conf",
        chain(&error)
    ))
}

/// Where a beginning is from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Origin {
    Store,
    LastLease,
}

/// Asks the store how to begin until it answers; but if there is a last lease to start with
/// meanwhile, then only once.
async fn begin(
    store: &Store,
    report: &mut Report,
    last: Option<&LastLease>,
    address: &str,
) -> (Beginning, Origin) {
    if let Some(last) = last {
        match last.usable(address, SystemTime::now()) {
            Err(error) => {
                info!(
                    why = chain(&error),
                    "the last lease is of no use without the store"
                );
            }
            Ok(config) => {
                let asked = tokio::time::timeout(FIRST_WORD, async { line(store.begin().await) });
                let error = match asked.await {
                    Ok(Ok(beginning)) => {
                        report.store_answered();
                        return (beginning, Origin::Store);
                    }
                    Ok(Err(error)) => error,
                    Err(_elapsed) => format!("no answer within {FIRST_WORD:?}"),
                };
                warn!(
                    error, subnet = %last.lease.subnet,
                    "the lease store is away; starting with the last lease"
                );
                report.store_failed(&error);
                let beginning = Beginning::by_config(last.config.clone(), config);
                return (beginning, Origin::LastLease);
            }
        }
    }
    let beginning = until_done(
        NO_CONFIG,
        async || line(store.begin().await),
        |error| report.store_failed(error),
    )
    .await;
    report.store_answered();
    (beginning, Origin::Store)
}

/// Brings the node up by its last lease as far as pods of its own need it, and waits for the
/// store. Peers are unknown until then: what an earlier start knew of them goes on.
async fn wait_for_the_store(
    store: &Store,
    agent: &mut Agent,
    last: Option<&Lease>,
    config: &NetworkConfig,
) -> Result<()> {
    if let Some(lease) = last {
        agent.own(lease).await;
        warn!(subnet = %lease.subnet, "waiting for the lease store with the last lease");
        // Whoever waits for subnet.env may go on.
        Notice::ready();
    } else {
        warn!("this node has another address than with its last lease");
    }
    let Agent { notice, report, .. } = agent;
    let answered = until_done(
        NO_CONFIG,
        async || line(store.begin().await),
        |error| report.store_failed(error),
    );
    let signs = async {
        let mut sign = interval(SIGN);
        loop {
            sign.tick().await;
            notice.alive();
        }
    };
    let now = tokio::select! {
        answer = answered => answer,
        () = signs => bail!("time stands still"),
    };
    agent.report.store_answered();
    ensure!(
        now.config == *config,
        "the network config is not what it was when the last lease was taken; start again"
    );
    Ok(())
}

/// Takes the instance's lock, and lets an agent that is just stopping finish.
async fn take_lock(args: &AgentArgs) -> Result<InstanceLock> {
    let end = Instant::now() + PREDECESSOR;
    loop {
        match InstanceLock::take(&args.instance_dir()) {
            Err(LockError::Held { .. }) if Instant::now() < end => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            taken => return taken.context("start as the only agent of this instance"),
        }
    }
}

/// Gets a lease that this node can use.
async fn acquire(store: &Store, agent: &mut Agent, previous: Option<Subnet>) -> Lease {
    let config = agent.state.config().clone();
    let attempt = async || {
        // The last attempt may be long ago, and the node have another address since.
        agent.ensure_link().await;
        // The device is there, and with it its MAC address.
        let attrs = agent
            .lease_attrs()
            .ok_or("the vxlan device has no MAC address")?;
        let acquired = match line(store.acquire(&config, &attrs, previous).await) {
            Ok(lease) if config.fits(lease.subnet) => Ok(lease),
            Ok(lease) => Err(UnusableLease {
                subnet: lease.subnet,
                subnet_len: config.subnet_len,
                network: config.network,
                min: config.subnet_min,
                max: config.subnet_max,
            }
            .to_string()),
            Err(error) => Err(error),
        };
        match &acquired {
            Ok(_) => agent.report.store_answered(),
            Err(error) => agent.report.store_failed(error),
        }
        acquired
    };
    until_done("failed to acquire lease", attempt, |_| {}).await
}

/// Starts everything that events come from.
async fn follow(
    agent: &mut Agent,
    store: Store,
    lease: Lease,
    stop: &CancellationToken,
) -> Result<()> {
    let (sender, events) = mpsc::channel(EVENTS);
    let backend = &agent.state.config().backend;
    let watched = Watch {
        device: backend.link_name().map(|name| name.to_string()),
        network: agent.state.config().network,
        every_route: backend.asks_for_ways(),
        receive_buffer: RECEIVE_BUFFER_BYTES,
    };
    let monitor = Monitor::start(agent.netlink.clone(), watched, sender.clone())
        .await
        .context("listen to the kernel")?;
    monitor.watch_uplink(Some(agent.state.uplink().ifindex));
    let checkpoint = agent.checkpoint.read();
    if let Some(checkpoint) = &checkpoint {
        let backend = &agent.state.config().backend;
        let leases = backend.leases(&agent.observed.kernel);
        let kept_until = checkpoint.kept_until;
        agent.state.remember(&leases, kept_until, uptime());
    }
    let after = checkpoint.map(|checkpoint| checkpoint.position);
    let (attrs, published) = watch::channel(lease.attrs.clone());
    agent.attrs = Some(attrs);
    // The node may have another address than when it took the lease.
    agent.publish();
    tokio::spawn(store.clone().watch(after, sender, stop.clone()));
    tokio::spawn(complete(store.clone(), stop.clone()));
    let keeper = {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move { store.keep(lease, published, stop).await })
    };
    agent.sources = Some(Sources {
        events,
        monitor,
        store,
        keeper,
    });
    Ok(())
}

/// Tells the store that pods can be reached: once, as flannel does.
async fn complete(store: Store, stop: CancellationToken) {
    let told = stop.run_until_cancelled(store.complete()).await;
    if let Some(Err(error)) = told {
        warn!(error = chain(&error), "CompleteLease execute error");
    }
}

/// An error in one line, as [`until_done`] takes it.
fn line<T, E: std::error::Error>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_that_iptables_does_not_see_is_told_with_what_to_do() {
        let config = |nftables: bool| {
            let text = format!(
                r#"{{"Network":"10.244.0.0/16","EnableNFTables":{nftables},"Backend":{{"Type":"vxlan"}}}}"#
            );
            NetworkConfig::parse(&text).unwrap()
        };
        let missing = || {
            Err(FileError::Read {
                path: "/proc/sys/net/bridge/bridge-nf-call-iptables".into(),
                source: std::io::ErrorKind::NotFound.into(),
            })
        };
        let said = bridge_advice(&config(false), missing()).unwrap();
        assert!(said.starts_with("Failed to check br_netfilter: "), "{said}");
        for part in ["/bridge-nf-call-iptables", "modprobe br_netfilter"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(bridge_advice(&config(true), missing()), None);
        assert_eq!(bridge_advice(&config(false), Ok(())), None);
    }
}
