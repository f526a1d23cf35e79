//! What answers where a lease server should, and is none.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use twill_testbed::netns::Namespace;

/// The lease server's port.
pub(crate) const PORT: u16 = 7890;

/// How often it looks whether it shall stop.
const TICK: Duration = Duration::from_millis(20);

/// What it is asked: the first line's method and path, and who asks.
pub(crate) struct Asked<'a> {
    /// As `GET`.
    pub(crate) method: &'a str,
    /// As `/v1/network/config`.
    pub(crate) path: &'a str,
    /// Who asks.
    pub(crate) from: Ipv4Addr,
}

/// Answers on the lease server's port of a namespace until it is dropped.
pub(crate) struct Impostor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    /// Sends what `answer` gives, head and all, and hangs up. Without an answer it neither
    /// answers nor hangs up.
    pub(crate) fn start(
        namespace: &Namespace,
        answer: impl FnMut(&Asked<'_>) -> Option<String> + Send + 'static,
    ) -> Result<Self> {
        let listener = namespace
            .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))?
            .context("listen in the lease server's place")?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serve(&listener, answer, &told));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, its client saw no answer, and the test says so.
            drop(thread.join());
        }
    }
}

fn serve(
    listener: &TcpListener,
    mut answer: impl FnMut(&Asked<'_>) -> Option<String>,
    stop: &AtomicBool,
) {
    let mut silent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => silent.extend(converse(stream, &mut answer).unwrap_or_default()),
            Err(_) => std::thread::sleep(TICK),
        }
    }
}

/// One request. The connection comes back if it is to stay open without an answer.
fn converse(
    mut stream: TcpStream,
    answer: &mut impl FnMut(&Asked<'_>) -> Option<String>,
) -> Result<Option<TcpStream>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    let asked = Asked {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        from: match stream.peer_addr()?.ip() {
            std::net::IpAddr::V4(address) => address,
            std::net::IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        },
    };
    let Some(text) = answer(&asked) else {
        return Ok(Some(stream));
    };
    stream.write_all(text.as_bytes())?;
    Ok(None)
}

/// An answer with this status and body.
pub(crate) fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}
