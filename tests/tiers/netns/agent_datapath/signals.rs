//! Signals that come while programs are loaded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use twill_agent::datapath::Datapath;
use twill_agent::datapath::attach::AttachBy;
use twill_tests::required;

use super::lab::Lab;

/// The verifier gives up where a signal is pending for its thread.
#[test]
fn programs_are_loaded_whatever_signals_come_meanwhile() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    lab.with(async |options, _| {
        let mut heard = signal(SignalKind::user_defined1())?;
        let (loading, stop) = (pthread_self(), AtomicBool::new(false));
        let (opened, sent) = thread::scope(|scope| {
            let signals = scope.spawn(|| -> Result<u32> {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    pthread_kill(loading, Signal::SIGUSR1)?;
                    sent += 1;
                    thread::sleep(Duration::from_micros(200));
                }
                Ok(sent)
            });
            let opened = Datapath::open(options, 7, 24);
            stop.store(true, Ordering::Relaxed);
            match signals.join() {
                Ok(sent) => (opened, sent),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        opened?;
        let sent = sent?;
        ensure!(sent > 10, "only {sent} signals");
        // They have waited, and none is blocked any more.
        heard.recv().await;
        Ok(())
    })
}
