//! Ctrl-C and its like end a program by way of its clean-up.

use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{SignalKind, signal};

/// From now on SIGINT, SIGTERM and SIGHUP interrupt every wait of this process.
pub fn watch() -> Result<()> {
    // Whoever started this process may have blocked them, and a process inherits that.
    let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    set.thread_unblock().context("unblock signals")?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the signal watch")?;
    let [mut interrupt, mut terminate, mut hang_up] = {
        let _inside = runtime.enter();
        [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]
    };
    // Not joined: it waits for signals until this process ends.
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            crate::wait::interrupt();
            // A second one does not cut the clean-up short: the handlers stay.
            std::future::pending::<()>().await;
        });
    });
    Ok(())
}
