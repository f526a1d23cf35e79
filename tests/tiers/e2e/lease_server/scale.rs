//! Many leases.

#![expect(clippy::print_stderr, reason = "the figures are for people")]

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{LARGE, Running, attrs, get};

/// Figures of a debug build on two shared cores are printed, limits are generous.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_leases_are_taken_and_listed_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), LARGE).await;
    let store = server.store();
    let mut taken = 0;
    for (count, limit) in [(5_000, 60), (50_000, 400)] {
        let start = Instant::now();
        let tasks: Vec<_> = (0..64)
            .map(|lane| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in (taken + lane..count).step_by(64) {
                        store.acquire(&attrs(n), None).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let acquired = start.elapsed();
        let start = Instant::now();
        let text = reqwest::get(server.url("leases"))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        let listed = start.elapsed();
        let list: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            list["leases"].as_array().map(Vec::len),
            usize::try_from(count).ok()
        );
        eprintln!(
            "{} acquires: {acquired:?}; list of {count}: {listed:?}, {} bytes",
            count - taken,
            text.len()
        );
        assert!(acquired < Duration::from_secs(limit), "{acquired:?}");
        assert!(listed < Duration::from_secs(5), "{listed:?}");
        taken = count;
    }
    server.stop().await;

    let start = Instant::now();
    let server = Running::start(directory.path(), LARGE).await;
    eprintln!("opened with 50,000 leases: {:?}", start.elapsed());
    let (_, list) = get(&server.url("leases")).await;
    assert_eq!(list["leases"].as_array().map(Vec::len), Some(50_000));
    server.stop().await;
}
