//! What is left when the server is killed.

#![expect(clippy::print_stderr, reason = "a test that is left out says so")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use twill_agent::serve::Options;
use twill_agent::store::server::ServerStore;
use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::subnet::Subnet;
use twill_tests::required;

use super::{DAY, LARGE, PATIENCE, attrs, get, options};

/// `twilld serve` as a process.
struct Daemon {
    child: Child,
    address: SocketAddr,
}

impl Daemon {
    fn start(directory: &Path) -> Self {
        Self::start_by(directory, Command::new(twilld()))
    }

    /// With a data directory of its own, of this many bytes, which nobody else sees but by
    /// `/proc/<pid>/root`.
    fn start_confined(directory: &Path, bytes: u64) -> Self {
        let data = directory.join("data");
        std::fs::create_dir_all(&data).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={bytes} tmpfs {} && exec {} \"$@\"",
            data.display(),
            twilld().display()
        );
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation=private",
            "sh",
            "-c",
            &script,
            "sh",
        ]);
        Self::start_by(directory, command)
    }

    fn start_by(directory: &Path, mut command: Command) -> Self {
        // Nobody else takes a port of the ephemeral range that was just free, in practice.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let Options {
            data_dir,
            network_config_path,
            ..
        } = options(directory, LARGE, address, DAY);
        let child = command
            .arg("serve")
            .arg("--network-config")
            .arg(network_config_path)
            .arg("--data-dir")
            .arg(data_dir)
            .arg("--listen")
            .arg(address.to_string())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address }
    }

    async fn ready(&mut self) -> ServerStore {
        let store = ServerStore::new(&format!("http://{}", self.address)).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while store.begin().await.is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("twilld serve ended: {status}");
            }
            assert!(Instant::now() < deadline, "twilld serve does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        store
    }

    fn kill(&mut self) {
        // SIGKILL.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
        }
    }
}

/// The binary: where `cargo xtask test` put it, else where cargo puts it.
fn twilld() -> PathBuf {
    let directory = std::env::var_os("TWILL_BIN_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug"),
        PathBuf::from,
    );
    directory.join("twilld")
}

const NODES: usize = 4;

async fn list(address: SocketAddr) -> Vec<Lease> {
    let (_, mut list) = get(&format!("http://{address}/v1/network/leases")).await;
    serde_json::from_value(list["leases"].take()).unwrap()
}

/// What one node was told, until the server was gone.
async fn acquire_until_killed(store: ServerStore, mut node: u32) -> Vec<(Subnet, LeaseAttrs)> {
    let mut told = Vec::new();
    while let Ok(lease) = store.acquire(&attrs(node), None).await {
        told.push((lease.subnet, attrs(node)));
        node += 1;
    }
    told
}

/// In every round four nodes at once take leases, and the server is killed in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_lease_outlives_a_kill_of_the_server() {
    if !required() {
        eprintln!("left out: it needs twilld; run cargo xtask test e2e");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut told: BTreeMap<Subnet, LeaseAttrs> = BTreeMap::new();
    for round in 0..20 {
        let mut daemon = Daemon::start(directory.path());
        let store = daemon.ready().await;
        let kept: BTreeMap<Subnet, LeaseAttrs> = list(daemon.address)
            .await
            .into_iter()
            .map(|lease| (lease.subnet, lease.attrs))
            .collect();
        for (subnet, attrs) in &told {
            assert_eq!(kept.get(subnet), Some(attrs), "round {round}: {subnet}");
        }
        // A lease may be there whose answer was lost on the way: one for each node.
        assert!(kept.len() <= told.len() + round * NODES, "round {round}");

        let nodes: Vec<_> = (0..NODES)
            .map(|lane| {
                let first = u32::try_from((round * NODES + lane) * 1000).unwrap();
                tokio::spawn(acquire_until_killed(store.clone(), first))
            })
            .collect();
        wait_for_leases(daemon.address, kept.len() + 2).await;
        daemon.kill();
        let before = told.len();
        for node in nodes {
            told.extend(node.await.unwrap());
        }
        assert!(
            told.len() > before,
            "round {round}: nothing was acknowledged"
        );
    }
}

async fn wait_for_leases(address: SocketAddr, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while list(address).await.len() < count {
        assert!(Instant::now() < deadline, "no leases are taken");
    }
}

/// What the data directory of a confined server holds, as it sees it.
fn confined(daemon: &Daemon, directory: &Path, file: &str) -> PathBuf {
    let data = directory.join("data").join(file);
    let inside = data.strip_prefix("/").unwrap();
    PathBuf::from(format!("/proc/{}/root", daemon.child.id())).join(inside)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_disk_is_full_goes_on_telling_and_stores_again_when_there_is_room() {
    if !required() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start_confined(directory.path(), 8 << 20);
    let store = daemon.ready().await;
    let first = store.acquire(&attrs(1), None).await.unwrap();

    // Everything that is left.
    let junk = confined(&daemon, directory.path(), "junk");
    let mut file = std::fs::File::create(&junk).unwrap();
    let zeroes = vec![0; 4096];
    while std::io::Write::write_all(&mut file, &zeroes).is_ok() {}
    drop(file);
    let mut node = 2;
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        match store.acquire(&attrs(node), None).await {
            Ok(_) => node += 1,
            Err(error) => break error.to_string(),
        }
        assert!(Instant::now() < deadline, "{node} leases fit a full disk");
    };
    assert!(refused.contains("507"), "{refused}");
    assert!(refused.contains("ask again later"), "{refused}");
    let told = list(daemon.address).await;
    assert_eq!(told.len() + 1, usize::try_from(node).unwrap());
    assert!(told.iter().any(|lease| lease.subnet == first.subnet));

    std::fs::remove_file(&junk).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let stored = loop {
        match store.acquire(&attrs(node), None).await {
            Ok(lease) => break lease,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let told = list(daemon.address).await;
    assert_eq!(told.len(), usize::try_from(node).unwrap());
    assert!(told.iter().any(|lease| lease.subnet == stored.subnet));
}
