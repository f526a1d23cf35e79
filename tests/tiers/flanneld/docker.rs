//! A real Docker whose bridge has the node's subnet, by the options that `mk-docker-opts` writes.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use twill_testbed::command;
use twill_testbed::daemon::{Daemon, binary};
use twill_testbed::topology::Node;
use twill_testbed::traffic::ping;
use twill_testbed::world::{NODE_A, NODE_B};
use twill_tests::required;

use super::lab::{Lab, USUAL};
use super::member::Member;

/// Tells where Docker's packages are unpacked.
const VARIABLE: &str = "TWILL_DOCKER";
const START: Duration = Duration::from_mins(2);
const KEY: &str = "DOCKER_NETWORK_OPTIONS";
const CGROUPS: &str = "/sys/fs/cgroup";

/// Docker on a node: its own mounts, its files in the node's directory.
struct Docker<'a> {
    daemon: Daemon,
    node: &'a Node,
    root: PathBuf,
}

impl<'a> Docker<'a> {
    fn start(node: &'a Node, options: &[String]) -> Result<Self> {
        let Some(root) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
            bail!("no Docker: `cargo xtask setup` fetches one, {VARIABLE} says where it is");
        };
        let directory = node.directory();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private"])
            .arg(root.join("usr/sbin/dockerd"))
            .args(options)
            .arg("--data-root")
            .arg(directory.join("docker"))
            .arg("--exec-root")
            .arg(directory.join("docker-run"))
            .arg("--pidfile")
            .arg(directory.join("docker.pid"))
            .args(["--host", &host(node)])
            .args(["--storage-driver", "vfs"])
            .args(["--cgroup-parent", node.namespace().name()]);
        prepare(&mut command, &root)?;
        let log = directory.join("dockerd.log");
        let daemon = Daemon::start(node.namespace(), command, &log)?;
        let mut docker = Self { daemon, node, root };
        let (node, root) = (docker.node, docker.root.clone());
        docker.daemon.wait_for("Docker answers", START, || {
            ctl(node, &root, &["info"]).map(Some)
        })?;
        Ok(docker)
    }

    fn ctl(&self, words: &[&str]) -> Result<String> {
        ctl(self.node, &self.root, words)
    }

    /// An image with one program, `/bin/busybox`.
    fn make_image(&self) -> Result<()> {
        let files = self.node.directory().join("image");
        fs::create_dir_all(files.join("bin"))?;
        fs::copy(self.root.join("bin/busybox"), files.join("bin/busybox"))?;
        let archive = self.node.directory().join("image.tar");
        let (files, archive) = (files.display().to_string(), archive.display().to_string());
        let tar = ["tar", "-C", files.as_str(), "-cf", archive.as_str(), "."];
        self.node.namespace().run(&tar)?;
        self.ctl(&["import", &archive, "busybox"]).map(drop)
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        // Without the container there is nothing to do; whatever else is wrong was told.
        drop(self.ctl(&["rm", "--force", "one"]));
        let Ok(controllers) = fs::read_dir(CGROUPS) else {
            return;
        };
        for controller in controllers.flatten() {
            drop(fs::remove_dir(
                controller.path().join(self.node.namespace().name()),
            ));
        }
    }
}

fn host(node: &Node) -> String {
    format!("unix://{}", node.directory().join("docker.sock").display())
}

fn ctl(node: &Node, root: &Path, words: &[&str]) -> Result<String> {
    let mut command = Command::new(root.join("usr/bin/docker"));
    command.args(["--host", &host(node)]).args(words);
    prepare(&mut command, root)?;
    node.namespace().enter(|| command::run(&mut command))?
}

/// Programs and libraries are found where they are unpacked.
fn prepare(command: &mut Command, root: &Path) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = ["usr/sbin", "usr/bin"].map(|folder| root.join(folder));
    let folders = folders.into_iter().chain(std::env::split_paths(&path));
    let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let more = root.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
    let libraries = [libraries.as_os_str(), more.as_os_str()].join(OsStr::new(":"));
    command
        .env("PATH", std::env::join_paths(folders)?)
        .env("LD_LIBRARY_PATH", libraries);
    Ok(())
}

/// What a unit with `EnvironmentFile=` gives to `dockerd $DOCKER_NETWORK_OPTIONS`.
fn options(node: &Node, subnet_file: &Path) -> Result<Vec<String>> {
    let file = node.directory().join("docker-opts");
    let mut command = Command::new(binary("twilld")?);
    command
        .args(["mk-docker-opts", "-k", KEY, "-f"])
        .arg(subnet_file)
        .arg("-d")
        .arg(&file);
    node.namespace().enter(|| command::run(&mut command))??;
    let text = fs::read_to_string(&file)?;
    let prefix = format!("{KEY}=");
    let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
    let value = value.with_context(|| text.clone())?.trim_matches('"');
    Ok(value.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn docker_s_containers_are_in_the_node_s_subnet() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    // The bridge is Docker's on one of them, and a CNI plugin's on the other.
    let mut a = Member::of_twill(&lab, "a", NODE_A)?;
    a.pod = None;
    let delete = ["ip", "link", "del", "cni0"];
    a.node.namespace().run(&delete)?;
    let b = Member::of_twill(&lab, "b", NODE_B)?;
    let env = a.env()?;
    a.wait_route(&b, true)?;
    b.wait_route(&a, true)?;

    let subnet_file = a.agent()?.subnet_file();
    let docker = Docker::start(&a.node, &options(&a.node, &subnet_file)?)?;
    let told: Value = serde_json::from_str(&docker.ctl(&["network", "inspect", "bridge"])?)?;
    let pool = &told[0]["IPAM"]["Config"][0];
    assert_eq!(pool["Subnet"], env.prefix().to_string());
    assert_eq!(pool["Gateway"], env.subnet.ip().to_string());

    docker.make_image()?;
    let sleep = ["/bin/busybox", "sleep", "300"];
    let run = ["run", "--detach", "--name", "one", "busybox"];
    docker.ctl(&[&run[..], &sleep].concat())?;
    let words = "{{.NetworkSettings.IPAddress}}";
    let address = docker.ctl(&["inspect", "--format", words, "one"])?;
    let address = address.trim().parse()?;
    ensure!(env.prefix().contains(address), "{address} of {env:?}");
    let exec = |words: &[&str]| {
        let exec = ["exec", "one", "/bin/busybox"];
        docker.ctl(&[&exec[..], words].concat())
    };
    let link = exec(&["ip", "link", "show", "eth0"])?;
    ensure!(link.contains(&format!("mtu {} ", env.mtu_bytes)), "{link}");

    // Docker drops what it does not know in FORWARD: flannel's rules let the overlay through.
    ping(b.pod()?.namespace(), address, 1000)?;
    let to = b.pod()?.address().to_string();
    exec(&["ping", "-c", "3", "-W", "5", &to]).map(drop)
}
