//! Servers that answer rubbish: no answer but a lease server's may remove a peer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use twill_agent::store::server::ServerStore;
use twill_core::event::Event;
use twill_core::subnet::Subnet;
use twill_tests::known::Known;

use super::PATIENCE;

/// Connections that get rubbish before the server comes to its senses.
const RUBBISH_ANSWERS: usize = 4;

/// What a server says instead of leases: raw, head and all.
fn rubbish() -> Vec<(&'static str, String)> {
    let page = "<!DOCTYPE html><html><body><h1>It works!</h1></body></html>";
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n";
    vec![
        ("nothing at all", String::new()),
        ("no HTTP", "SSH-2.0-OpenSSH_9.9\r\n".to_owned()),
        ("an empty body", ok("")),
        ("a proxy's page", ok(page)),
        ("null", ok("null")),
        ("an empty object", ok("{}")),
        ("an empty array", ok("[]")),
        (
            "an empty list without proof",
            ok(r#"{"revision":11,"leases":[]}"#),
        ),
        ("an empty list of another store", ok(&list("b", 99, &[]))),
        ("an empty list of before", ok(&list("a", 3, &[]))),
        (
            "leases that are null",
            ok(r#"{"store":"a","revision":11,"leases":null}"#),
        ),
        (
            "a list cut off",
            ok(r#"{"store":"a","revision":11,"leases":["#),
        ),
        (
            "leases that cannot be read",
            ok(r#"{"store":"a","revision":11,"leases":[1,{}]}"#),
        ),
        (
            "less than was announced",
            format!("{head}Content-Length: 5000\r\n\r\n{}", list("a", 11, &[])),
        ),
        (
            "a chunk that never ends",
            format!("{head}Transfer-Encoding: chunked\r\n\r\nfff\r\n{{\"store\":"),
        ),
        ("an error", answer("500 Internal Server Error", "")),
        ("a proxy's error", answer("502 Bad Gateway", page)),
        ("no content", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        ("gone, by a stranger", answer("410 Gone", page)),
        ("elsewhere", answer("302 Found\r\nLocation: /login", "")),
    ]
}

pub(super) fn ok(body: &str) -> String {
    answer("200 OK", body)
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

pub(super) fn list(store: &str, revision: u64, nodes: &[u8]) -> String {
    let leases: Vec<_> = nodes
        .iter()
        .map(|n| {
            json!({
                "subnet": format!("10.244.{n}.0/24"),
                "attrs": {
                    "PublicIP": format!("192.0.2.{n}"),
                    "BackendType": "vxlan",
                    "BackendData": {"VNI": 1, "VtepMAC": format!("02:00:5e:10:00:{n:02x}")},
                },
                "ttl_seconds": 86400,
            })
        })
        .collect();
    json!({"store": store, "revision": revision, "leases": leases}).to_string()
}

/// What the client asks for when it gets rubbish.
#[derive(Clone, Copy, Debug)]
enum Asked {
    List,
    Watch,
}

/// Sane at first: a list of nodes 1, 2 and 3, and a watch that breaks off. If rubbish is to
/// meet a list, the next watch is told to list again. Then rubbish for some answers, then
/// sane again: node 3 is gone, which the list says.
async fn serve(listener: TcpListener, asked: Asked, rubbish: String, answers: Arc<AtomicUsize>) {
    let gone = answer("410 Gone", r#"{"error":"list again","reason":"gone"}"#);
    let bookmark = "{\"revision\":10,\"type\":\"bookmark\",\"store\":\"a\"}\n";
    let mut script = vec![ok(&list("a", 10, &[1, 2, 3])), ok(bookmark)];
    if matches!(asked, Asked::List) {
        script.push(gone.clone());
    }
    script.extend(std::iter::repeat_n(rubbish, RUBBISH_ANSWERS));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let number = answers.fetch_add(1, Ordering::SeqCst);
        let answered = match script.get(number) {
            Some(answer) => converse(stream, |_| answer.clone()).await,
            None => {
                converse(stream, |watch| {
                    if watch {
                        gone.clone()
                    } else {
                        ok(&list("a", 11, &[1, 2]))
                    }
                })
                .await
            }
        };
        // A client that hangs up in the middle of rubbish does well.
        drop(answered);
    }
}

async fn converse(
    mut stream: TcpStream,
    answer: impl FnOnce(bool) -> String,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let watch = head.windows(10).any(|part| part == b"watch=true");
    stream.write_all(answer(watch).as_bytes()).await?;
    stream.shutdown().await
}

fn subnets(nodes: &[u8]) -> BTreeSet<Subnet> {
    nodes
        .iter()
        .map(|n| format!("10.244.{n}.0/24").parse().unwrap())
        .collect()
}

async fn check(kind: &str, asked: Asked, rubbish: String) {
    // Another store's word, or an older one's, makes every store's word doubtful: node 3
    // stays for as long as its lease can last.
    let doubtful = kind.contains("of another store") || kind.contains("of before");
    let sane = match (asked, doubtful) {
        (Asked::List, true) => subnets(&[1, 2, 3]),
        (Asked::List, false) | (Asked::Watch, _) => subnets(&[1, 2]),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let answers = Arc::new(AtomicUsize::new(0));
    let serving = tokio::spawn(serve(listener, asked, rubbish, Arc::clone(&answers)));
    let (sender, mut events) = mpsc::channel(64);
    let shutdown = CancellationToken::new();
    let store = ServerStore::new(&format!("http://{address}")).unwrap();
    let watching = tokio::spawn(store.watch(None, sender, shutdown.clone()));

    let mut known = Known::nothing().unwrap();
    let followed = tokio::time::timeout(PATIENCE, async {
        loop {
            let Event::Store(said) = events.recv().await.unwrap() else {
                panic!("the kernel is no store");
            };
            known.hear(said);
            let seen = answers.load(Ordering::SeqCst);
            // Before the first list nobody is known.
            let Some(peers) = known.peers() else {
                continue;
            };
            if peers == sane && seen > 3 + RUBBISH_ANSWERS {
                return;
            }
            assert_eq!(peers, subnets(&[1, 2, 3]), "{kind}: after {seen} answers");
        }
    })
    .await;
    followed.unwrap_or_else(|_| panic!("{kind}: never came to its senses; {:?}", known.peers()));
    shutdown.cancel();
    watching.await.unwrap();
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_removes_no_peer_and_sense_is_followed_again() {
    let mut checks = Vec::new();
    for (kind, rubbish) in rubbish() {
        for asked in [Asked::List, Asked::Watch] {
            let check = tokio::spawn(check(kind, asked, rubbish.clone()));
            checks.push((kind, asked, check));
        }
    }
    for (kind, asked, check) in checks {
        let checked = check.await;
        checked.unwrap_or_else(|error| panic!("{kind} instead of a {asked:?}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_not_taken_from_rubbish() {
    let attrs = serde_json::from_value(json!({"PublicIP": "192.0.2.1"})).unwrap();
    let subnet = "10.244.1.0/24".parse().unwrap();
    for (kind, rubbish) in rubbish() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                drop(converse(stream, |_| rubbish.clone()).await);
            }
        });
        let store = ServerStore::new(&url).unwrap();
        assert!(store.acquire(&attrs, None).await.is_err(), "{kind}");
        assert!(
            store.renew(subnet, attrs.public_ip, &attrs).await.is_err(),
            "{kind}"
        );
        assert!(
            store.release(subnet, attrs.public_ip).await.is_err(),
            "{kind}"
        );
        serving.abort();
    }
}
