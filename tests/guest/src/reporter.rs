//! Saying messages to the host.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use anyhow::{Context as _, Result};

use crate::message::Message;

/// The serial port.
const PORT: &str = "/dev/ttyS1";

/// Says messages.
pub(crate) struct Reporter {
    port: File,
}

impl Reporter {
    /// Opens the serial port.
    pub(crate) fn open() -> Result<Self> {
        let port = OpenOptions::new().write(true).open(PORT);
        Ok(Self {
            port: port.with_context(|| format!("open {PORT}"))?,
        })
    }

    /// Says one message.
    pub(crate) fn say(&mut self, message: &Message) -> Result<()> {
        let mut line = serde_json::to_string(message).context("write a message")?;
        line.push('\n');
        self.port
            .write_all(line.as_bytes())
            .with_context(|| format!("write to {PORT}"))
    }
}
