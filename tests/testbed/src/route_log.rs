//! Routes as they come: when the kernel had which.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::netns::Namespace;
use crate::wait::wait_for;

/// How long `ip monitor` may take to listen.
const START: Duration = Duration::from_secs(20);
/// A route that nobody else has, by which the log knows that it hears (RFC 5737).
const TRIAL: &str = "203.0.113.0/24";

/// `ip monitor route` inside a namespace; each line has the time at which it came.
#[derive(Debug)]
pub struct RouteLog {
    monitor: Child,
    reader: Option<JoinHandle<()>>,
    lines: Receiver<(String, Instant)>,
}

impl RouteLog {
    /// Listens from now on.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["monitor", "route"]).stdout(Stdio::piped());
        let mut monitor = namespace.spawn(&mut command)?;
        let output = monitor.stdout.take().context("no output")?;
        let (sender, lines) = channel();
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send((line, Instant::now())).is_err() {
                    return;
                }
            }
        });
        let log = Self {
            monitor,
            reader: Some(reader),
            lines,
        };
        wait_for("ip monitor listens", START, || {
            namespace.run_lines(&format!(
                "ip route add {TRIAL} dev lo
                 ip route del {TRIAL} dev lo"
            ))?;
            Ok(log.lines.try_recv().ok())
        })?;
        Ok(log)
    }

    /// When the route to this destination, as `ip` writes it, was announced. What came before
    /// it is forgotten.
    pub fn wait_for(&self, destination: &str, patience: Duration) -> Result<Instant> {
        wait_for(
            &format!("there is a route to {destination}"),
            patience,
            || {
                let mut lines = self.lines.try_iter();
                let line = lines.find(|(line, _)| line.split(' ').next() == Some(destination));
                Ok(line.map(|(_, when)| when))
            },
        )
    }
}

impl Drop for RouteLog {
    fn drop(&mut self) {
        // Gone already, if its namespace is.
        drop(self.monitor.kill());
        drop(self.monitor.wait());
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}
