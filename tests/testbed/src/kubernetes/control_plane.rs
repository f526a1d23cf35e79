//! etcd, API server and controller manager, on a host of their own in the underlay.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::pki::{Pki, User};
use super::programs::Programs;
use crate::command;
use crate::daemon::{Daemon, log_tail};
use crate::topology::{Node, Underlay};
use crate::wait::wait_for;

/// Underlay address of the API server.
pub const API_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
/// Where nodes' `podCIDR`s are from.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// Where Services' addresses are from.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The API server's own Service.
const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

const PORT: u16 = 6443;
/// How long it may take to be ready: some ten seconds with nothing else to do.
const START: Duration = Duration::from_mins(1);
/// For one request, tried again until it is answered well.
const ANSWER: Duration = Duration::from_secs(30);

/// What flanneld asks for, as kube-flannel's manifest grants it.
const FLANNEL: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: kube-flannel
  labels: { pod-security.kubernetes.io/enforce: privileged }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: flannel, namespace: kube-flannel }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: flannel }
rules:
  - { apiGroups: [''], resources: [pods], verbs: [get] }
  - { apiGroups: [''], resources: [nodes], verbs: [get, list, watch] }
  - { apiGroups: [''], resources: [nodes/status], verbs: [patch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: flannel }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flannel }
subjects:
  - { kind: ServiceAccount, name: flannel, namespace: kube-flannel }
  - { kind: User, apiGroup: rbac.authorization.k8s.io, name: flannel }
";

/// How a control plane is started, where it is not as usual.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where `podCIDR`s are from, one or two of them with a comma; without, nobody gives nodes
    /// any.
    pub cluster_cidr: Option<String>,
    /// Whether pods are given to nodes.
    pub scheduler: bool,
    /// Further flags of the API server.
    pub api_server: Vec<String>,
    /// Further flags of the controller manager.
    pub controllers: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cluster_cidr: Some(CLUSTER_CIDR.to_owned()),
            scheduler: false,
            api_server: Vec::new(),
            controllers: Vec::new(),
        }
    }
}

/// A process of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// Holds what the API server says.
    Etcd,
    /// Answers.
    ApiServer,
    /// Gives nodes their `podCIDR`, among much else.
    Controllers,
    /// Gives pods to nodes.
    Scheduler,
}

impl Part {
    fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Controllers => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// One that runs. RBAC and `NodeRestriction` are on: what a role does not grant is refused.
#[derive(Debug)]
pub struct ControlPlane {
    // Before their host: fields are dropped in order.
    running: Vec<(Part, Daemon)>,
    pki: Pki,
    programs: Programs,
    options: Options,
    host: Node,
}

impl ControlPlane {
    /// Starts one at [`API_SERVER`], and waits until it answers and gives service accounts.
    pub fn start(underlay: &Underlay) -> Result<Self> {
        Self::start_with(underlay, Options::default())
    }

    /// [`Self::start`], not as usual.
    pub fn start_with(underlay: &Underlay, options: Options) -> Result<Self> {
        let host = underlay.join("api", API_SERVER)?;
        let pki = Pki::new(
            host.directory().join("pki"),
            &url(),
            &[API_SERVER, KUBERNETES_SERVICE, Ipv4Addr::LOCALHOST],
        )?;
        let mut control = Self {
            running: Vec::new(),
            pki,
            programs: Programs::find()?,
            options,
            host,
        };
        control.start_all()?;
        Ok(control)
    }

    /// Starts a part, for the first time or again on the data that is there, and does not wait.
    pub fn start_again(&mut self, part: Part) -> Result<()> {
        let mut command = Command::new(self.programs.kube(part.program()));
        command.args(self.flags(part)?);
        let daemon = Daemon::start(self.host.namespace(), command, &self.log(part))?;
        self.running.push((part, daemon));
        Ok(())
    }

    /// Kills a part (SIGKILL).
    pub fn kill(&mut self, part: Part) -> Result<()> {
        let running = self.running.iter().position(|(one, _)| *one == part);
        let running = running.with_context(|| format!("{part:?} is not running"))?;
        self.running.remove(running).1.kill()
    }

    /// The process of a part, for signals.
    pub fn daemon(&mut self, part: Part) -> Result<&mut Daemon> {
        let mut running = self.running.iter_mut();
        let found = running.find(|(one, _)| *one == part);
        let (_, daemon) = found.with_context(|| format!("{part:?} is not running"))?;
        Ok(daemon)
    }

    /// Ends all of it and starts it with nothing stored: another history, with resource versions
    /// that begin again, by the same certificates.
    pub fn start_anew(&mut self) -> Result<()> {
        for (_, daemon) in self.running.drain(..).rev() {
            daemon.kill()?;
        }
        let data = self.data();
        fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        self.start_all()
    }

    fn start_all(&mut self) -> Result<()> {
        self.start_again(Part::Etcd)?;
        self.start_again(Part::ApiServer)?;
        // The others give up where they have to wait for it.
        self.wait_answers()?;
        self.start_again(Part::Controllers)?;
        if self.options.scheduler {
            self.start_again(Part::Scheduler)?;
        }
        self.wait_ready()?;
        self.apply(FLANNEL)
    }

    /// Waits until it answers and the controllers do their work.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_answers()?;
        let account = ["get", "serviceaccount", "default", "--output=name"];
        self.wait_for(Part::Controllers, "there are service accounts", &account)
    }

    fn wait_answers(&mut self) -> Result<()> {
        let ready = ["get", "--raw", "/readyz"];
        self.wait_for(Part::ApiServer, "the API server is ready", &ready)
    }

    /// Waits until the administrator is answered, and no longer than this part runs.
    fn wait_for(&mut self, part: Part, what: &str, words: &[&str]) -> Result<()> {
        let mut command = self.kubectl_command(User::Admin)?;
        command.args(words);
        let host = std::sync::Arc::clone(self.host.namespace());
        self.daemon(part)?.wait_for(what, START, || {
            host.enter(|| command::run(&mut command))?.map(|_| Some(()))
        })
    }

    /// The API server's URL.
    pub fn url(&self) -> String {
        url()
    }

    /// The certificate of the authority that the API server's is by.
    pub fn ca(&self) -> PathBuf {
        self.pki.path("ca.crt")
    }

    /// Its host in the underlay.
    pub fn host(&self) -> &Node {
        &self.host
    }

    /// A kubeconfig that speaks for this user.
    pub fn kubeconfig(&self, user: User<'_>) -> Result<PathBuf> {
        if user == User::FlannelToken {
            let token = self.token("kube-flannel", "flannel", Duration::from_hours(24))?;
            return self.pki.token_kubeconfig(user, &token);
        }
        self.pki.kubeconfig(user)
    }

    /// A new token of a service account, good for so long (ten minutes at least).
    pub fn token(&self, namespace: &str, account: &str, good: Duration) -> Result<String> {
        let good = format!("--duration={}s", good.as_secs());
        let token = self.kubectl(&["create", "token", account, "-n", namespace, &good])?;
        Ok(token.trim().to_owned())
    }

    /// What kubectl prints, asked by the administrator on the control plane's host.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.kubectl_as(User::Admin, words)
    }

    /// The same by another user.
    pub fn kubectl_as(&self, user: User<'_>, words: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command(user)?;
        command.args(words);
        self.host
            .namespace()
            .enter(|| command::run(&mut command))?
            .with_context(|| format!("kubectl as {user:?}"))
    }

    /// kubectl, not started yet; it has to be in the namespace of [`Self::host`].
    pub fn kubectl_command(&self, user: User<'_>) -> Result<Command> {
        let mut command = Command::new(self.programs.kube("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig(user)?)
            // What it keeps of the API's description is kept apart from the person's.
            .arg("--cache-dir")
            .arg(self.host.directory().join("kubectl"));
        command::apart(&mut command);
        Ok(command)
    }

    /// Applies a manifest (YAML or JSON); tried again while it is refused, for what it names may
    /// come a moment later.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        wait_for("a manifest is taken", ANSWER, || {
            self.apply_once(manifest).map(Some)
        })
    }

    fn apply_once(&self, manifest: &str) -> Result<()> {
        let mut command = self.kubectl_command(User::Admin)?;
        command
            .args(["apply", "--validate=false", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.host.namespace().spawn(&mut command)?;
        let mut input = child.stdin.take().context("no standard input")?;
        input.write_all(manifest.as_bytes())?;
        drop(input);
        let output = child.wait_with_output()?;
        command::checked(&command, &output).map(drop)
    }

    /// An object as JSON: `["node", "n1"]`, `["pods", "-n", "default"]`.
    pub fn get(&self, words: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output=json"], words].concat())?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// Adds a Node as a kubelet registers it, without a kubelet: with its `InternalIP`, and with
    /// this `podCIDR`; without one the controller manager gives it one.
    pub fn add_node(&self, name: &str, address: Ipv4Addr, pod_cidr: Option<&str>) -> Result<()> {
        let spec = pod_cidr.map_or_else(String::new, |cidr| {
            format!("spec: {{ podCIDR: {cidr}, podCIDRs: [{cidr}] }}\n")
        });
        self.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{ name: {name}, labels: {{ kubernetes.io/hostname: {name} }} }}\n{spec}"
        ))?;
        let status = format!(
            r#"{{"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}},{{"type":"Hostname","address":"{name}"}}]}}}}"#
        );
        self.patch_status(name, &status)
    }

    /// Merges this into the status of a Node.
    pub fn patch_status(&self, node: &str, patch: &str) -> Result<()> {
        let words = [
            "patch",
            "node",
            node,
            "--subresource=status",
            "--type=merge",
        ];
        self.kubectl(&[&words[..], &["-p", patch]].concat())
            .map(drop)
    }

    /// Merges this into a Node.
    pub fn patch_node(&self, node: &str, patch: &str) -> Result<()> {
        self.kubectl(&["patch", "node", node, "--type=merge", "-p", patch])
            .map(drop)
    }

    /// The end of every log.
    pub fn log_tail(&self) -> String {
        let running = self.running.iter();
        let logs = running.map(|(part, _)| log_tail(&self.log(*part)));
        logs.collect::<Vec<_>>().join("\n\n")
    }

    /// The log of a part.
    pub fn log(&self, part: Part) -> PathBuf {
        (self.host.directory()).join(&format!("{}.log", part.program()))
    }

    fn data(&self) -> PathBuf {
        self.host.directory().join("etcd")
    }

    fn flags(&self, part: Part) -> Result<Vec<String>> {
        let path = |name: &str| self.pki.path(name).display().to_string();
        let data = self.data();
        let mut flags = match part {
            Part::Etcd => vec![
                flag("data-dir", data.display()),
                // A test's etcd may lose its last second with the machine.
                "--unsafe-no-fsync".to_owned(),
                flag("log-level", "warn"),
            ],
            Part::ApiServer => vec![
                flag("etcd-servers", "http://127.0.0.1:2379"),
                flag("advertise-address", API_SERVER),
                flag("secure-port", PORT),
                flag("service-cluster-ip-range", SERVICE_CIDR),
                flag("client-ca-file", path("ca.crt")),
                flag("tls-cert-file", path("apiserver.crt")),
                flag("tls-private-key-file", path("apiserver.key")),
                flag("kubelet-preferred-address-types", "InternalIP"),
                flag(
                    "service-account-issuer",
                    "https://kubernetes.default.svc.cluster.local",
                ),
                flag("service-account-key-file", path("sa.pub")),
                flag("service-account-signing-key-file", path("sa.key")),
                flag("authorization-mode", "Node,RBAC"),
                flag("enable-admission-plugins", "NodeRestriction"),
                "--allow-privileged".to_owned(),
            ],
            Part::Controllers => vec![
                "--leader-elect=false".to_owned(),
                flag("service-cluster-ip-range", SERVICE_CIDR),
                flag("root-ca-file", path("ca.crt")),
                flag("service-account-private-key-file", path("sa.key")),
                flag("cluster-signing-cert-file", path("ca.crt")),
                flag("cluster-signing-key-file", path("ca.key")),
                "--use-service-account-credentials".to_owned(),
            ],
            Part::Scheduler => vec!["--leader-elect=false".to_owned()],
        };
        match part {
            Part::Etcd => {}
            Part::ApiServer => {
                // It speaks to kubelets as the administrator.
                self.kubeconfig(User::Admin)?;
                flags.push(flag("kubelet-client-certificate", path("admin.crt")));
                flags.push(flag("kubelet-client-key", path("admin.key")));
                flags.extend(self.options.api_server.iter().cloned());
            }
            Part::Controllers => {
                flags.push(kubeconfig(&self.kubeconfig(User::Controllers)?));
                if let Some(cidr) = &self.options.cluster_cidr {
                    flags.push(flag("cluster-cidr", cidr));
                    flags.push("--allocate-node-cidrs".to_owned());
                }
                flags.extend(self.options.controllers.iter().cloned());
            }
            Part::Scheduler => flags.push(kubeconfig(&self.kubeconfig(User::Scheduler)?)),
        }
        Ok(flags)
    }
}

fn url() -> String {
    format!("https://{API_SERVER}:{PORT}")
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

fn kubeconfig(path: &Path) -> String {
    flag("kubeconfig", path.display())
}
