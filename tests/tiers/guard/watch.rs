//! What arrives in a pod, by the word that it carries.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use twill_testbed::netns::Namespace;

/// The port that forged packets go to.
pub(crate) const PORT: u16 = 7777;
/// How often the watcher looks whether it shall stop.
const TICK: Duration = Duration::from_millis(20);

type Seen = Arc<Mutex<BTreeMap<String, u64>>>;

/// Counts datagrams by their first word until it is dropped.
pub(crate) struct Watch {
    seen: Seen,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches inside.
    pub(crate) fn start(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
        socket.set_read_timeout(Some(TICK))?;
        let (seen, stop) = (Seen::default(), Arc::new(AtomicBool::new(false)));
        let (told, ends) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !ends.load(Ordering::Relaxed) {
                let Ok((length, _)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let text = String::from_utf8_lossy(&buffer[..length]);
                let word = text.split('|').next().unwrap_or_default().to_owned();
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                *told.entry(word).or_default() += 1;
            }
        });
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// How many datagrams came with this word.
    pub(crate) fn count(&self, word: &str) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(word).copied().unwrap_or(0)
    }

    /// Forgets all.
    pub(crate) fn forget(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clear();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
