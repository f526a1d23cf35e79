//! A real flanneld on each node and a real etcd behind them, for `--flanneld PATH`.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use twill_testbed::command::command;
use twill_testbed::daemon::Daemon;
use twill_testbed::flanneld;
use twill_testbed::pod::Pod;
use twill_testbed::subnet_env::SubnetEnv;
use twill_testbed::topology::{Node, behind};
use twill_testbed::wait::wait_until;
use twill_testbed::world::OVERLAY_LINK;

use super::Network;
use super::kernel::pod_to_pod;
use crate::case::Target;
use crate::cpu::ProcessUse;
use crate::leases::EtcdGateway;
use crate::load::Ends;
use crate::topology::{self, Setup};

/// How long etcd and flanneld may take to be there.
const START: Duration = Duration::from_secs(20);
const ETCD_PORT: u16 = 2379;
/// flannel's default for `--etcd-prefix`.
const PREFIX: &str = "/coreos.com/network";

/// The programs that `--flanneld` is about.
#[derive(Clone, Debug)]
pub struct Programs {
    /// flanneld.
    pub flanneld: PathBuf,
    /// etcd; etcdctl is beside it.
    pub etcd: PathBuf,
}

pub(super) struct Flannel {
    // Pods go first, then daemons, then their nodes: fields are dropped in order.
    pods: [Pod; 2],
    flanneld: [Daemon; 2],
    _etcd: Etcd,
    _nodes: [Node; 2],
}

impl Flannel {
    pub(super) fn new(setup: Setup, programs: &Programs) -> Result<Self> {
        let (prefix, nodes) = topology::nodes(setup)?;
        let [a, b] = &nodes;
        let etcd = Etcd::start(behind(&prefix, "etcd", a, b)?, &programs.etcd)?;
        etcd.configure(&setup.net_conf())?;
        etcd.gateway().fill(0..setup.leases)?;
        let (mut first, env_a) = wait_subnet(start(a, &programs.flanneld, &etcd)?, a)?;
        let (mut second, env_b) = wait_subnet(start(b, &programs.flanneld, &etcd)?, b)?;
        for (node, daemon, other) in [(a, &mut first, env_b), (b, &mut second, env_a)] {
            let subnet = other.prefix().to_string();
            daemon.wait_for("flanneld knows its peer", START, || {
                let routes = ["ip", "route", "show", "dev", OVERLAY_LINK];
                let routes = node.namespace().run(&routes).unwrap_or_default();
                Ok(routes.contains(&subnet).then_some(()))
            })?;
        }
        let pods = [Pod::add(a, "1", &env_a)?, Pod::add(b, "1", &env_b)?];
        topology::add_services([a, b], pods[1].address(), setup)?;
        topology::widen_ports(&pods)?;
        Ok(Self {
            pods,
            flanneld: [first, second],
            _etcd: etcd,
            _nodes: nodes,
        })
    }
}

impl Network for Flannel {
    fn ends(&self, target: Target) -> Ends<'_> {
        pod_to_pod(&self.pods, target)
    }

    fn agents(&mut self) -> Result<Vec<ProcessUse>> {
        let daemons = self.flanneld.iter();
        daemons
            .map(|daemon| ProcessUse::of(daemon.pid()?))
            .collect()
    }
}

/// Starts a flanneld and does not wait.
pub(crate) fn start(node: &Node, flanneld: &Path, etcd: &Etcd) -> Result<Daemon> {
    flanneld::spawn(flanneld, node, &etcd.url(), &["--ip-masq=true"])
}

fn wait_subnet(mut daemon: Daemon, node: &Node) -> Result<(Daemon, SubnetEnv)> {
    let file = flanneld::subnet_file(node);
    let env = daemon.wait_for("flanneld has a subnet", START, || {
        Ok(file.is_file().then_some(()))
    });
    env?;
    Ok((daemon, SubnetEnv::read(&file)?))
}

/// An etcd of one member.
pub(crate) struct Etcd {
    // Before its host: fields are dropped in order.
    _daemon: Daemon,
    host: Node,
    etcdctl: PathBuf,
}

impl Etcd {
    /// Starts one on this host, and puts the network config into it by [`Self::configure`].
    pub(crate) fn start(host: Node, etcd: &Path) -> Result<Self> {
        let url = url(&host);
        let directory = host.directory();
        let mut command = Command::new(etcd);
        command
            .arg("--data-dir")
            .arg(directory.join("etcd"))
            .args(["--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url])
            .args(["--listen-peer-urls", "http://127.0.0.1:0"]);
        let log = directory.join("etcd.log");
        let mut daemon = Daemon::start(host.namespace(), command, &log)
            .with_context(|| format!("start {}", etcd.display()))?;
        let filter = format!("sport = :{ETCD_PORT}");
        daemon.wait_for("etcd listens", START, || {
            let listening = host.namespace().run(&["ss", "-Hltn", &filter])?;
            Ok((!listening.is_empty()).then_some(()))
        })?;
        Ok(Self {
            _daemon: daemon,
            etcdctl: etcd.with_file_name("etcdctl"),
            host,
        })
    }

    /// What agents are given as `--etcd-endpoints`.
    pub(crate) fn url(&self) -> String {
        url(&self.host)
    }

    /// Where it takes the leases of nodes that do not exist.
    pub(crate) fn gateway(&self) -> EtcdGateway<'_> {
        EtcdGateway {
            host: self.host.namespace(),
            address: SocketAddrV4::new(self.host.address(), ETCD_PORT),
            prefix: PREFIX,
        }
    }

    /// Puts the network config into it.
    pub(crate) fn configure(&self, value: &str) -> Result<()> {
        let url = self.url();
        let key = format!("{PREFIX}/config");
        let mut command = command(&[
            self.etcdctl.as_os_str(),
            "--endpoints".as_ref(),
            url.as_ref(),
            "put".as_ref(),
            key.as_ref(),
            value.as_ref(),
        ])?;
        command.env("ETCDCTL_API", "3");
        // It listens a moment before it answers.
        wait_until("etcd takes the network config", START, || {
            let output = self.host.namespace().enter(|| command.output());
            matches!(output, Ok(Ok(output)) if output.status.success())
        })
    }
}

fn url(host: &Node) -> String {
    format!("http://{}:{ETCD_PORT}", host.address())
}
