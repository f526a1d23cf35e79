//! Watches that end, and watches that nobody will ever say a word on again.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use twill_agent::store::Store;
use twill_agent::store::server::ServerStore;
use twill_core::event::Event;
use twill_core::leases::StoreEvent;

use super::PATIENCE;
use super::rubbish::{list, ok};

const BOOKMARK: &str = "{\"revision\":10,\"type\":\"bookmark\",\"store\":\"a\"}\n";
/// The answer to a watch, with more to come.
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";

/// A client that watches a server of ours on loopback.
struct Watching {
    listener: TcpListener,
    store: ServerStore,
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
}

impl Watching {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let store = ServerStore::new(&url).unwrap();
        let (sender, events) = mpsc::channel(16);
        let stop = CancellationToken::new();
        tokio::spawn(store.clone().watch(None, sender, stop.clone()));
        Self {
            listener,
            store,
            events,
            stop,
        }
    }

    /// The next request's first line and where to answer it.
    async fn asked(&self) -> (String, TcpStream) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        (request.lines().next().unwrap().to_owned(), stream)
    }

    /// Answers the first request, for the list.
    async fn list(&mut self) {
        let (asked, mut stream) = self.asked().await;
        assert!(!asked.contains("watch"), "{asked}");
        stream
            .write_all(ok(&list("a", 10, &[1])).as_bytes())
            .await
            .unwrap();
        assert!(matches!(
            self.events.recv().await,
            Some(Event::Store(StoreEvent::Listed(_)))
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_every_watch_at_once_is_asked_less_and_less() {
    let mut watching = Watching::start().await;
    watching.list().await;
    let mut watches = 0;
    let several_seconds = timeout(Duration::from_secs(4), async {
        loop {
            let (asked, mut stream) = watching.asked().await;
            assert!(asked.contains("watch=true"), "{asked}");
            stream.write_all(ok(BOOKMARK).as_bytes()).await.unwrap();
            watches += 1;
        }
    });
    several_seconds.await.unwrap_err();
    watching.stop.cancel();
    // Pauses of 0.1, 0.2, 0.4, 0.8, 1.6 s; of 0.1 s each there would be thirty.
    assert!((2..=8).contains(&watches), "{watches} watches in 4 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moves_watches_anew_at_once() {
    let mut watching = Watching::start().await;
    watching.list().await;
    let (_, mut dead) = watching.asked().await;
    let begin = format!("{HEAD}{BOOKMARK}");
    dead.write_all(begin.as_bytes()).await.unwrap();
    Store::Server(watching.store.clone()).moved();
    // The dead one is still open, and silent for less than what counts as silence.
    let (asked, _stream) = timeout(PATIENCE, watching.asked()).await.unwrap();
    assert!(
        asked.contains("watch=true") && asked.contains("revision=10"),
        "{asked}"
    );
    watching.stop.cancel();
}
