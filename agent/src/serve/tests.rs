//! The server with a large store.

use std::net::Ipv4Addr;
use std::time::Instant;

use serde_json::{Value, json};

use super::record::{Change, Record, Term};
use super::*;

const LEASES: u32 = 50_000;

fn record(n: u32, now: clock::Timestamp) -> Record {
    let subnet = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + ((n + 1) << 8));
    let attrs = json!({
        "PublicIP": Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + n),
        "PublicIPv6": null,
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": "02:00:5e:10:00:01"},
    });
    Record {
        subnet: format!("{subnet}/24").parse().unwrap(),
        attrs: serde_json::from_value(attrs).unwrap(),
        term: Some(Term::starting(now, Duration::from_hours(24))),
    }
}

/// Limits are generous, for a debug build on shared cores.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_leases_are_opened_and_listed_quickly() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let network_config_path = directory.path().join("net-conf.json");
    let config = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;
    std::fs::write(&network_config_path, config).unwrap();
    let now = Clock::start().now();
    let changes: Vec<Change> = (0..LEASES)
        .map(|n| Change::Added {
            revision: u64::from(n) + 1,
            record: Arc::new(record(n, now)),
        })
        .collect();
    let (disk, _) = Disk::open(&data_dir).unwrap();
    disk.commit(u64::from(LEASES), &changes).unwrap();
    drop(disk);

    let start = Instant::now();
    let server = Server::open(Options {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir,
        network_config_path,
        lease_ttl: Duration::from_hours(24),
    })
    .await
    .unwrap();
    let opened = start.elapsed();
    let url = format!("http://{}/v1/network/leases", server.local_address());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(server.run(shutdown.clone()));

    let start = Instant::now();
    let text = reqwest::get(&url).await.unwrap().bytes().await.unwrap();
    let listed = start.elapsed();
    let list: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(list["revision"], LEASES);
    assert_eq!(list["leases"].as_array().map(Vec::len), Some(50_000));
    assert!(opened < Duration::from_secs(20), "opened in {opened:?}");
    assert!(listed < Duration::from_secs(5), "listed in {listed:?}");

    // One more node in a full store.
    let start = Instant::now();
    let body = json!({"attrs": {"PublicIP": "192.0.2.1"}});
    let request = reqwest::Client::new().post(&url).json(&body);
    let answer = request.send().await.unwrap().error_for_status().unwrap();
    drop(answer.bytes().await.unwrap());
    let acquired = start.elapsed();
    assert!(
        acquired < Duration::from_secs(2),
        "acquired in {acquired:?}"
    );
    info!(
        ?opened,
        ?listed,
        bytes = text.len(),
        ?acquired,
        "50,000 leases"
    );
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
