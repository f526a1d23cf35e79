//! The agent: events in, one state, a plan, steps out. The one module that knows all others.

mod acceptance;
mod agent;
mod bpf;
mod checkpoint;
mod conditions;
mod direct;
mod failures;
mod grace;
mod guard;
mod memory;
mod metrics;
mod notice;
mod outlook;
mod pass;
mod path_mtu;
mod patience;
mod pods;
mod policy;
mod report;
mod start;
mod store;
mod traffic;
mod uplink;

use std::ffi::OsString;
use std::future::Future;
use std::io::IsTerminal as _;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use twill_core::subnet::Subnet;

use crate::args::{AgentArgs, DockerArgs, LogArgs, LogFormat, Twilld};
use crate::files::docker_opts;
use crate::netlink::Netlink;
use crate::open_files;
use crate::podcidr::{self, args::PodcidrArgs};
use crate::serve::{self, args::ServeArgs};

/// The command line and the environment of this process, and what they say that is ignored.
pub fn command_line() -> Result<(Twilld, Vec<String>), clap::Error> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    Twilld::read(&words, &environment)
}

/// Sets up logging to standard error, and tells what of the command line is ignored.
pub fn logging(args: &LogArgs, ignored: &[String]) -> Result<()> {
    let filter = args.filter();
    let filter = EnvFilter::builder()
        .parse(filter)
        .with_context(|| format!("--log-level {filter:?}: write a level, as info"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    for why in ignored.iter().chain(&args.without_effect()) {
        warn!(why, "command line");
    }
    Ok(())
}

/// Runs `work` to its end on a runtime of two threads at most: one task owns the state, and
/// the others wait for sockets.
pub fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(work)
}

/// Runs the lease server until somebody stops it.
pub async fn serve(args: ServeArgs) -> Result<()> {
    Ok(serve::run(args, stopped_by_signal()?).await?)
}

/// Gives Nodes their podCIDR until somebody stops it.
pub async fn podcidr(args: PodcidrArgs) -> Result<()> {
    Ok(podcidr::run(args, stopped_by_signal()?).await?)
}

/// Writes Docker's options. A way to the subnet by another node is an error, as in flannel's
/// script: Docker would not make its bridge.
pub async fn mk_docker_opts(args: &DockerArgs) -> Result<()> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let (from, to) = (&args.flannel_env, &args.docker_env);
    let made = docker_opts::write(from, to, &environment, &args.form())?;
    let Some(bridge) = made.bridge else {
        return Ok(());
    };
    let subnet = Subnet::containing(bridge.into());
    let netlink = Netlink::connect().context("talk to the kernel")?;
    if let Some(gateway) = netlink
        .gateway_to(subnet)
        .await
        .context("read the routes")?
    {
        bail!("Your routing table already contains the subnet: {subnet} via {gateway}");
    }
    Ok(())
}

/// Runs the agent until somebody stops it. The datapath goes on.
pub async fn run(args: &AgentArgs) -> Result<()> {
    args.check()?;
    info!(flags = ?args, "CLI flags config");
    for why in args.without_effect() {
        warn!(why, "command line");
    }
    // Maps, links and pins are files, and a node has some for each pod.
    open_files::raise();
    let stop = stopped_by_signal()?;
    let ended = stop
        .run_until_cancelled(Box::pin(start::start(args, &stop)))
        .await;
    match ended {
        // Stopped before there was anything to stop.
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(agent)) => Box::pin(agent.run(&stop)).await,
    }
}

fn stopped_by_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    for (kind, name) in [
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::terminate(), "SIGTERM"),
    ] {
        let mut signals = signal(kind).with_context(|| format!("listen for {name}"))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                info!(signal = name, "stopping; the datapath goes on");
                stop.cancel();
            }
        });
    }
    Ok(stop)
}
