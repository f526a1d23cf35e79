//! `twilld serve`, the lease server, on a host of its own in the underlay.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::daemon::{Daemon, binary};
use crate::topology::{Node, Underlay};
use crate::world::{LEASE_SERVER, NETWORK, PORT, VNI};

/// The server's usual port.
const LISTEN_PORT: u16 = 7890;
const START: Duration = Duration::from_secs(10);

/// What agents are given as `--lease-server` where a server has this address.
pub fn url(address: Ipv4Addr) -> String {
    format!("http://{address}:{LISTEN_PORT}")
}

/// The text of `net-conf.json` for the named world.
pub fn usual_config() -> String {
    let config = json!({
        "Network": NETWORK,
        "Backend": { "Type": "vxlan", "VNI": VNI, "Port": PORT },
    });
    config.to_string()
}

/// A running lease server.
#[derive(Debug)]
pub struct LeaseServer {
    // Before its host: fields are dropped in order.
    daemon: Option<Daemon>,
    host: Node,
}

impl LeaseServer {
    /// Starts one with the usual network config.
    pub fn start(underlay: &Underlay) -> Result<Self> {
        Self::start_with(underlay, &usual_config())
    }

    /// Starts one with this text as `net-conf.json`.
    pub fn start_with(underlay: &Underlay, config: &str) -> Result<Self> {
        Self::start_on(underlay.join("leases", LEASE_SERVER)?, config)
    }

    /// Starts one on a host that is there already.
    pub fn start_on(host: Node, config: &str) -> Result<Self> {
        let path = host.directory().join("net-conf.json");
        fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
        let mut server = Self { daemon: None, host };
        server.start_again()?;
        Ok(server)
    }

    /// Starts it on the same data after [`LeaseServer::kill`] or [`LeaseServer::stop`].
    pub fn start_again(&mut self) -> Result<()> {
        let directory = self.host.directory();
        let listen = format!("{}:{LISTEN_PORT}", self.address());
        let mut command = Command::new(binary("twilld")?);
        command
            .arg("serve")
            .arg("--network-config")
            .arg(directory.join("net-conf.json"))
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(["--listen", &listen]);
        let log = directory.join("serve.log");
        let mut daemon = Daemon::start(self.host.namespace(), command, &log)?;
        let filter = format!("sport = :{LISTEN_PORT}");
        daemon.wait_for("the lease server listens", START, || {
            let listening = self.host.namespace().run(&["ss", "-Hltn", &filter])?;
            Ok((!listening.is_empty()).then_some(()))
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Its underlay address.
    pub fn address(&self) -> Ipv4Addr {
        self.host.address()
    }

    /// What agents are given as `--lease-server`.
    pub fn url(&self) -> String {
        url(self.address())
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Node {
        &self.host
    }

    /// Ends it in order (SIGTERM).
    pub fn stop(&mut self) -> Result<()> {
        let daemon = self
            .daemon
            .take()
            .context("the lease server is not running")?;
        daemon.stop().map(drop)
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        let daemon = self
            .daemon
            .take()
            .context("the lease server is not running")?;
        daemon.kill()
    }

    /// Removes its data; it must not run.
    pub fn wipe(&self) -> Result<()> {
        let path = self.host.directory().join("data");
        fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        crate::daemon::log_tail(&self.host.directory().join("serve.log"))
    }
}
