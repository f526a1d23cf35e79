//! The lease server and its client, over real HTTP on the loopback address.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and what they stand on panic"
)]

mod api;
mod client;
mod durability;
mod rubbish;
mod scale;
mod stream;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use twill_agent::serve::{Error as ServeError, Options, Server};
use twill_agent::store::server::ServerStore;
use twill_core::lease::LeaseAttrs;
use twill_core::subnet::Subnet;

const DAY: Duration = Duration::from_hours(24);
const PATIENCE: Duration = Duration::from_secs(20);
const SMALL: &str = r#"{"Network":"10.244.0.0/22","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;
const USUAL: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
const LARGE: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;

/// A server in this process.
struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    async fn start(directory: &Path, config: &str) -> Self {
        Self::start_at(directory, config, ([127, 0, 0, 1], 0).into(), DAY).await
    }

    async fn start_at(directory: &Path, config: &str, listen: SocketAddr, term: Duration) -> Self {
        let server = Server::open(options(directory, config, listen, term))
            .await
            .unwrap();
        let address = server.local_address();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.run(shutdown.clone()));
        Self {
            address,
            shutdown,
            task,
        }
    }

    fn store(&self) -> ServerStore {
        ServerStore::new(&format!("http://{}", self.address)).unwrap()
    }

    fn url(&self, resource: &str) -> String {
        format!("http://{}/v1/network/{resource}", self.address)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

fn options(directory: &Path, config: &str, listen: SocketAddr, lease_ttl: Duration) -> Options {
    let network_config_path = directory.join("net-conf.json");
    std::fs::write(&network_config_path, config).unwrap();
    Options {
        listen,
        data_dir: directory.join("data"),
        network_config_path,
        lease_ttl,
    }
}

/// Node `n` of up to 65,536.
fn attrs(n: u32) -> LeaseAttrs {
    let public_ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + n);
    let mac = format!("02:00:5e:10:{:02x}:{:02x}", n >> 8 & 0xff, n & 0xff);
    serde_json::from_value(json!({
        "PublicIP": public_ip, "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": mac},
    }))
    .unwrap()
}

fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

async fn get(url: &str) -> (StatusCode, Value) {
    let response = reqwest::get(url).await.unwrap();
    (response.status(), response.json().await.unwrap())
}
