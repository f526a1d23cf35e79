//! What the server answers.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use serde_json::{Value, json};

use twill_agent::serve::{Error as ServeError, Options, Server};
use twill_agent::store::server::Error;

use super::{DAY, PATIENCE, Running, SMALL, USUAL, attrs, get, options, subnet};

/// The next line of a watch.
async fn line(response: &mut reqwest::Response, rest: &mut Vec<u8>) -> Value {
    loop {
        if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            return serde_json::from_slice(&line).unwrap();
        }
        let chunk = tokio::time::timeout(PATIENCE, response.chunk())
            .await
            .unwrap();
        rest.extend_from_slice(&chunk.unwrap().expect("the watch ended"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_holds_one_subnet_and_gets_its_previous_one() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), USUAL).await;
    let store = server.store();
    assert_eq!(store.begin().await.unwrap().text, USUAL);

    let lease = store.acquire(&attrs(1), None).await.unwrap();
    assert_eq!(lease.attrs, attrs(1));
    assert_eq!(lease.ttl_seconds, Some(DAY.as_secs()));
    // Not one of the first hundred, which another node may get by chance.
    let previous = Some(subnet("10.244.200.0/24"));
    let again = store.acquire(&attrs(1), previous).await.unwrap();
    assert_eq!(again.subnet, lease.subnet);
    let other = store.acquire(&attrs(2), Some(lease.subnet)).await.unwrap();
    assert_ne!(other.subnet, lease.subnet);
    let third = store.acquire(&attrs(3), previous).await.unwrap();
    assert_eq!(Some(third.subnet), previous);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_subnets_is_said_with_the_range() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), SMALL).await;
    let store = server.store();
    for n in 1..=3 {
        store.acquire(&attrs(n), None).await.unwrap();
    }
    let error = store.acquire(&attrs(4), None).await.unwrap_err();
    let Error::Refused { status, error, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(error.contains("10.244.1.0"), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_nodes_at_once_get_a_hundred_subnets() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), USUAL).await;
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let store = server.store();
            tokio::spawn(async move { store.acquire(&attrs(n), None).await.unwrap().subnet })
        })
        .collect();
    let mut subnets = BTreeSet::new();
    for task in tasks {
        subnets.insert(task.await.unwrap());
    }
    assert_eq!(subnets.len(), 100);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_holder_renews_releases_or_moves_a_lease() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), USUAL).await;
    let store = server.store();
    let (holder, stranger) = (attrs(1), attrs(2));
    let subnet = store.acquire(&holder, None).await.unwrap().subnet;
    let refused = |error: Error| matches!(error, Error::HeldByAnother { .. });
    assert!(refused(
        store
            .renew(subnet, stranger.public_ip, &stranger)
            .await
            .unwrap_err()
    ));
    assert!(refused(
        store.release(subnet, stranger.public_ip).await.unwrap_err()
    ));
    let free = self::subnet("10.244.200.0/24");
    let error = store
        .renew(free, holder.public_ip, &holder)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error}");

    let moved = store
        .renew(subnet, holder.public_ip, &stranger)
        .await
        .unwrap();
    assert_eq!((moved.subnet, &moved.attrs), (subnet, &stranger));
    assert!(refused(
        store.release(subnet, holder.public_ip).await.unwrap_err()
    ));
    store.release(subnet, stranger.public_ip).await.unwrap();
    let (_, list) = get(&server.url("leases")).await;
    assert_eq!(list["leases"], json!([]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_request_is_answered_with_what_would_be_right() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), USUAL).await;
    for (resource, status, key) in [
        ("nothing", 404, "path"),
        ("leases?watch=yes", 400, "query"),
        ("leases?watch=true", 400, "revision"),
        ("leases?revision=1", 400, "watch"),
        ("leases?watch=true&revision=-1", 400, "query"),
        ("leases?wach=true&revision=1", 400, "query"),
        ("leases/10.244.1.0-24", 405, "method"),
    ] {
        let (got, body) = get(&server.url(resource)).await;
        assert_eq!(
            got,
            StatusCode::from_u16(status).unwrap(),
            "{resource}: {body}"
        );
        assert_eq!(body["key"], key, "{resource}: {body}");
        assert!(
            body["error"].as_str().is_some_and(|text| text.len() > 20),
            "{body}"
        );
    }
    let client = reqwest::Client::new();
    let put = |subnet: &str| client.put(server.url(&format!("leases/{subnet}")));
    for (request, status, key) in [
        (
            client.post(server.url("leases")).body("{}"),
            415,
            "Content-Type",
        ),
        (
            client.post(server.url("leases")).json(&json!({"attr": {}})),
            400,
            "body",
        ),
        (
            client.post(server.url("leases")).json(&"x".repeat(100_000)),
            413,
            "body",
        ),
        (put("10.244.1.0").json(&attrs(1)), 400, "subnet"),
        (put("10.244.1.7-24").json(&attrs(1)), 400, "subnet"),
        (put("%ff-24").json(&attrs(1)), 400, "path"),
        (
            client.delete(server.url("leases/10.244.1.0-24")),
            400,
            "public_ip",
        ),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{key}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["key"], key, "{body}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_from_its_revision_or_is_told_to_list() {
    let directory = tempfile::tempdir().unwrap();
    let server = Running::start(directory.path(), USUAL).await;
    let store = server.store();
    let first = store.acquire(&attrs(1), None).await.unwrap();
    let (_, list) = get(&server.url("leases")).await;
    assert_eq!(
        (&list["revision"], &list["leases"][0]["subnet"]),
        (&json!(1), &json!(first.subnet))
    );

    let second = store.acquire(&attrs(2), None).await.unwrap();
    // A renewal that says nothing new is not a change.
    store
        .renew(first.subnet, attrs(1).public_ip, &attrs(1))
        .await
        .unwrap();
    store
        .release(first.subnet, attrs(1).public_ip)
        .await
        .unwrap();

    let (mut rest, url) = (Vec::new(), server.url("leases?watch=true&revision=1"));
    let mut response = reqwest::get(&url).await.unwrap();
    let added = line(&mut response, &mut rest).await;
    assert_eq!(
        (&added["type"], &added["revision"]),
        (&json!("added"), &json!(2))
    );
    assert_eq!(added["lease"]["subnet"], json!(second.subnet));
    let removed = line(&mut response, &mut rest).await;
    assert_eq!(
        (&removed["type"], &removed["revision"]),
        (&json!("removed"), &json!(3))
    );
    assert_eq!(removed["subnet"], json!(first.subnet));
    let bookmark = line(&mut response, &mut rest).await;
    assert_eq!(
        (&bookmark["type"], &bookmark["revision"]),
        (&json!("bookmark"), &json!(3))
    );
    assert_eq!(bookmark["store"], list["store"]);
    let live = store.acquire(&attrs(3), None).await.unwrap();
    assert_eq!(
        line(&mut response, &mut rest).await["lease"]["subnet"],
        json!(live.subnet)
    );

    for query in ["revision=5", "revision=4&store=another"] {
        let (status, body) = get(&server.url(&format!("leases?watch=true&{query}"))).await;
        assert_eq!(status, StatusCode::GONE, "{body}");
        assert!(
            body["error"].as_str().unwrap().contains("list again"),
            "{body}"
        );
    }
    server.stop().await;

    // After a restart the history is empty: what a watcher missed, it cannot get.
    let server = Running::start(directory.path(), USUAL).await;
    let (status, body) = get(&server.url("leases?watch=true&revision=3")).await;
    assert_eq!(
        (status, &body["reason"]),
        (StatusCode::GONE, &json!("gone"))
    );
    let current = reqwest::get(server.url("leases?watch=true&revision=4"))
        .await
        .unwrap();
    assert_eq!(current.status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_start_on_what_it_cannot_serve() {
    let directory = tempfile::tempdir().unwrap();
    let listen = ([127, 0, 0, 1], 0).into();
    let open = |config: &str| Server::open(options(directory.path(), config, listen, DAY));
    let error = open("{").await.unwrap_err();
    assert!(matches!(error, ServeError::Config { .. }), "{error}");
    assert!(error.to_string().contains("net-conf.json"), "{error}");

    let running = Running::start(directory.path(), USUAL).await;
    let error = open(USUAL).await.unwrap_err();
    assert!(matches!(error, ServeError::InUse { .. }), "{error}");
    let taken = tempfile::tempdir().unwrap();
    let error = Server::open(options(taken.path(), USUAL, running.address, DAY))
        .await
        .unwrap_err();
    assert!(matches!(error, ServeError::Listen { .. }), "{error}");
    running.stop().await;

    let missing = Options {
        network_config_path: directory.path().join("none.json"),
        ..options(directory.path(), USUAL, listen, DAY)
    };
    let error = Server::open(missing).await.unwrap_err();
    assert!(matches!(error, ServeError::ReadConfig { .. }), "{error}");
}
