//! A real etcd, one member or several, each on a host of its own in the underlay.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::certificates::Certificates;
use crate::daemon::{Daemon, log_tail};
use crate::topology::{Node, Underlay};
use crate::wait::wait_for;

/// Under which everything of the network is: flannel's default.
pub const PREFIX: &str = "/coreos.com/network";

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
const START: Duration = Duration::from_secs(30);

/// One member.
#[derive(Debug)]
pub struct Member {
    // Before its host: fields are dropped in order.
    daemon: Option<Daemon>,
    host: Node,
}

/// A cluster.
#[derive(Debug)]
pub struct Etcd {
    /// The members, in the order of their names.
    pub members: Vec<Member>,
    tls: bool,
    user: Option<String>,
    token: String,
    quota_bytes: Option<u32>,
}

impl Etcd {
    /// Starts a cluster of so many members, and waits until it takes writes.
    pub fn start(underlay: &Underlay, members: u8) -> Result<Self> {
        Self::start_with(underlay, members, None)
    }

    /// [`Self::start`], with TLS to clients where there are certificates; they must show one.
    pub fn start_with(
        underlay: &Underlay,
        members: u8,
        certificates: Option<&Certificates>,
    ) -> Result<Self> {
        let mut cluster = Self {
            members: Vec::new(),
            tls: certificates.is_some(),
            user: None,
            token: "twill".to_owned(),
            quota_bytes: None,
        };
        for n in 0..members {
            let address = Ipv4Addr::new(192, 0, 2, 20 + n);
            let host = underlay.join(&format!("etcd{n}"), address)?;
            if let Some(certificates) = certificates {
                certificates.write(&host, address)?;
            }
            cluster.members.push(Member { daemon: None, host });
        }
        for n in 0..cluster.members.len() {
            cluster.start_again(n)?;
        }
        cluster.wait_healthy()?;
        Ok(cluster)
    }

    /// Ends every member and starts a cluster of another name with no data in their place.
    /// Whether it is another one.
    pub fn start_anew(&mut self, token: &str) -> Result<bool> {
        let before = self.cluster_id()?;
        for n in 0..self.members.len() {
            self.kill(n)?;
            self.wipe(n)?;
        }
        token.clone_into(&mut self.token);
        for n in 0..self.members.len() {
            self.start_again(n)?;
        }
        self.wait_healthy()?;
        Ok(self.cluster_id()? != before)
    }

    fn cluster_id(&self) -> Result<Value> {
        let status = self.status()?;
        let member = status.first().context("no member")?;
        Ok(member["Status"]["header"]["cluster_id"].clone())
    }

    /// Starts a member, for the first time or again on its data, and does not wait.
    pub fn start_again(&mut self, n: usize) -> Result<()> {
        let everybody: Vec<String> = (self.members.iter().enumerate())
            .map(|(n, member)| format!("etcd{n}=http://{}:{PEER_PORT}", member.host.address()))
            .collect();
        let (tls, quota) = (self.tls, self.quota_bytes);
        let scheme = self.scheme();
        let member = self.members.get_mut(n).context("no such member")?;
        let (address, directory) = (member.host.address(), member.host.directory());
        let client = format!("{scheme}://{address}:{CLIENT_PORT}");
        let peer = format!("http://{address}:{PEER_PORT}");
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("etcd{n}")])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &everybody.join(",")])
            .args(["--initial-cluster-token", &self.token])
            // A loaded machine is no reason to elect another leader.
            .args(["--heartbeat-interval", "200", "--election-timeout", "2000"])
            .env_remove("ETCD_UNSUPPORTED_ARCH");
        if let Some(bytes) = quota {
            command.args(["--quota-backend-bytes", &bytes.to_string()]);
        }
        if tls {
            command
                .arg("--client-cert-auth")
                .arg("--trusted-ca-file")
                .arg(directory.join("ca.pem"))
                .arg("--cert-file")
                .arg(directory.join("cert.pem"))
                .arg("--key-file")
                .arg(directory.join("key.pem"));
        }
        let log = directory.join("etcd.log");
        member.daemon = Some(Daemon::start(member.host.namespace(), command, &log)?);
        Ok(())
    }

    /// Waits until the cluster takes reads that all of it agrees on.
    pub fn wait_healthy(&self) -> Result<()> {
        let waited = wait_for("etcd is healthy", START, || {
            self.ctl(&["get", "x"]).map(Some)
        });
        waited.map(drop).with_context(|| self.log_tail())
    }

    /// Leaves it no room: starts every member again with little of it, and writes until it
    /// refuses (the alarm `NOSPACE`).
    pub fn fill(&mut self) -> Result<()> {
        self.quota_bytes = Some(1 << 20);
        for n in 0..self.members.len() {
            self.kill(n)?;
            self.start_again(n)?;
        }
        self.wait_healthy()?;
        let junk = "x".repeat(100_000);
        wait_for("etcd is full", START, || {
            match self.ctl(&["put", "/junk", &junk]) {
                Ok(_) => Ok(None),
                Err(error) if format!("{error:#}").contains("space exceeded") => Ok(Some(())),
                Err(error) => Err(error),
            }
        })
    }

    /// Makes room again after [`Self::fill`].
    pub fn make_room(&self) -> Result<()> {
        self.compact()?;
        self.ctl(&["defrag"])?;
        self.ctl(&["alarm", "disarm"]).map(drop)
    }

    /// Gives a user another password.
    pub fn set_password(&self, name: &str, password: &str) -> Result<()> {
        // `user passwd` asks for it; a user that is made anew has the same name and roles.
        self.ctl(&["user", "delete", name])?;
        self.ctl(&["user", "add", &format!("{name}:{password}")])?;
        self.ctl(&["user", "grant-role", name, "flannel"]).map(drop)
    }

    /// Lets a user read the keys of the network and nothing more.
    pub fn only_reads(&self) -> Result<()> {
        let role = [
            "role",
            "revoke-permission",
            "--prefix=true",
            "flannel",
            PREFIX,
        ];
        self.ctl(&role)?;
        let grant = [
            "role",
            "grant-permission",
            "--prefix=true",
            "flannel",
            "read",
            PREFIX,
        ];
        self.ctl(&grant).map(drop)
    }

    /// Kills a member (SIGKILL).
    pub fn kill(&mut self, n: usize) -> Result<()> {
        let member = self.members.get_mut(n).context("no such member")?;
        member
            .daemon
            .take()
            .context("the member is not running")?
            .kill()
    }

    /// What agents are given as `--etcd-endpoints`.
    pub fn endpoints(&self) -> String {
        let urls: Vec<String> = (0..self.members.len()).map(|n| self.endpoint(n)).collect();
        urls.join(",")
    }

    /// The URL of one member.
    pub fn endpoint(&self, n: usize) -> String {
        let address = self.members[n].host.address();
        format!("{}://{address}:{CLIENT_PORT}", self.scheme())
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// The host of a member.
    pub fn host(&self, n: usize) -> &Node {
        &self.members[n].host
    }

    /// What `etcdctl` prints, asked of every member that runs.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        let running: Vec<String> = (self.members.iter().enumerate())
            .filter(|(_, member)| member.daemon.is_some())
            .map(|(n, _)| self.endpoint(n))
            .collect();
        let host = self.host(0);
        let mut all = vec![
            "etcdctl".to_owned(),
            format!("--endpoints={}", running.join(",")),
        ];
        if self.tls {
            for (flag, file) in [("cacert", "ca"), ("cert", "cert"), ("key", "key")] {
                let path = host.directory().join(&format!("{file}.pem"));
                all.push(format!("--{flag}={}", path.display()));
            }
        }
        all.extend(self.user.iter().map(|user| format!("--user={user}")));
        all.extend(words.iter().map(|&word| word.to_owned()));
        host.namespace().run(&all)
    }

    /// Writes the network config.
    pub fn configure(&self, config: &str) -> Result<()> {
        self.ctl(&["put", &format!("{PREFIX}/config"), config])
            .map(drop)
    }

    /// Asks for a user's name and password from now on: `root`'s to `ctl`, and `name`'s, who
    /// may use the keys of the network.
    pub fn require_user(&mut self, name: &str, password: &str) -> Result<()> {
        self.ctl(&["user", "add", "root:root"])?;
        self.ctl(&["user", "add", &format!("{name}:{password}")])?;
        self.ctl(&["role", "add", "flannel"])?;
        let grant = ["role", "grant-permission", "--prefix=true", "flannel"];
        self.ctl(&[&grant[..], &["readwrite", PREFIX]].concat())?;
        self.ctl(&["user", "grant-role", name, "flannel"])?;
        self.ctl(&["user", "grant-role", "root", "root"])?;
        self.ctl(&["auth", "enable"])?;
        self.user = Some("root:root".to_owned());
        Ok(())
    }

    /// The leases as etcd has them, key and value, in the order of the keys.
    pub fn leases(&self) -> Result<Vec<(String, String)>> {
        let prefix = format!("{PREFIX}/subnets/");
        let text = self.ctl(&["get", "--prefix", &prefix])?;
        let mut lines = text.lines();
        let mut leases = Vec::new();
        while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
            let key = key.strip_prefix(&prefix).context("a key without prefix")?;
            leases.push((key.to_owned(), value.to_owned()));
        }
        Ok(leases)
    }

    /// Header and status of each running member, as `etcdctl` tells them.
    pub fn status(&self) -> Result<Vec<Value>> {
        let text = self.ctl(&["endpoint", "status", "-w", "json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The revision of the store.
    pub fn revision(&self) -> Result<i64> {
        let status = self.status()?;
        let revision =
            status.first().context("no member")?["Status"]["header"]["revision"].as_i64();
        revision.with_context(|| format!("no revision in {status:?}"))
    }

    /// Forgets the history before the revision of now.
    pub fn compact(&self) -> Result<()> {
        let revision = self.revision()?.to_string();
        self.ctl(&["compaction", &revision]).map(drop)
    }

    /// The member that leads.
    pub fn leader(&self) -> Result<usize> {
        let status = self.status()?;
        let leading = status.iter().find(|member| {
            let status = &member["Status"];
            status["leader"] == status["header"]["member_id"]
        });
        let endpoint = leading.context("nobody leads")?["Endpoint"]
            .as_str()
            .unwrap_or_default();
        (0..self.members.len())
            .find(|&n| self.endpoint(n) == endpoint)
            .context("an unknown leader")
    }

    /// Has another member lead.
    pub fn move_leader(&self) -> Result<()> {
        let leader = self.leader()?;
        let status = self.status()?;
        let other = status
            .iter()
            .find(|member| member["Endpoint"] != self.endpoint(leader).as_str())
            .context("no other member")?;
        let id = other["Status"]["header"]["member_id"]
            .as_u64()
            .context("a member without id")?;
        self.ctl(&["move-leader", &format!("{id:x}")]).map(drop)
    }

    /// The last lines of every log.
    pub fn log_tail(&self) -> String {
        let logs = self.members.iter();
        let logs = logs.map(|member| log_tail(&member.host.directory().join("etcd.log")));
        logs.collect::<Vec<_>>().join("\n")
    }

    /// Removes a member's data; it must not run.
    fn wipe(&self, n: usize) -> Result<()> {
        let path = self.host(n).directory().join("data");
        fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))
    }
}
