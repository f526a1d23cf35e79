//! Many leases.

#![expect(clippy::print_stderr, reason = "the figures are for people")]

use std::time::{Duration, Instant};

use serde_json::Value;

use twill_tests::required;

use super::{LARGE, Running, attrs, get};

/// How many nodes start at once.
const NODES: u32 = 5_000;

/// How many of them are under way at the same time.
const LANES: u32 = 64;

/// Limits are generous, for a debug build on shared cores; the figures are printed.
#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_nodes_start_together() {
    if !required() {
        eprintln!("left out: it takes long; run cargo xtask test e2e");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), LARGE).await;
    let store = server.store();
    let start = Instant::now();
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in (lane..NODES).step_by(64) {
                    store.acquire(&attrs(n), None).await.unwrap();
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
    let acquired = start.elapsed();

    let start = Instant::now();
    let response = reqwest::get(server.url("leases")).await.unwrap();
    let text = response.bytes().await.unwrap();
    let listed = start.elapsed();
    let list: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(list["leases"].as_array().map(Vec::len), Some(5_000));
    eprintln!(
        "{NODES} acquires: {acquired:?}; list: {listed:?}, {} bytes",
        text.len()
    );
    assert!(acquired < Duration::from_mins(1), "{acquired:?}");
    assert!(listed < Duration::from_secs(2), "{listed:?}");
    server.stop().await;

    let server = Running::start(directory.path(), LARGE).await;
    let (_, list) = get(&server.url("leases")).await;
    assert_eq!(list["leases"].as_array().map(Vec::len), Some(5_000));
    server.stop().await;
}
