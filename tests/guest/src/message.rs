//! What the guest tells the host: one JSON value a line on the second serial port. The first
//! is the console, where the kernel speaks.
//!
//! `xtask/src/kernels/report.rs` reads it; a message that it does not know fails the run.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The serial port.
const PORT: &str = "/dev/ttyS1";

/// One message.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Message {
    /// The kernel is up.
    Kernel {
        /// As `uname -r` says.
        release: String,
    },
    /// The verifier's answer to one program in its largest configuration.
    Program {
        /// Its name.
        name: String,
        /// Instructions the verifier processed, where it took the program.
        instructions: Option<u32>,
        /// The end of the verifier's log, where it did not.
        rejected: Option<String>,
    },
    /// Something that was tried.
    Feature {
        /// Its name in the table.
        name: &'static str,
        /// Nothing where it works, else why it does not.
        missing: Option<String>,
    },
    /// A test binary starts.
    TierBegin {
        /// Its name.
        tier: String,
    },
    /// A line that the test binary printed.
    Output {
        /// Without its line end.
        line: String,
    },
    /// The test binary ended.
    TierEnd {
        /// Its name.
        tier: String,
        /// Whether it ended well.
        success: bool,
    },
    /// A test binary does not run, because the kernel cannot do what it is about.
    LeftOut {
        /// Its name.
        tier: String,
        /// What is missing.
        why: String,
    },
    /// The guest could not do what the plan says.
    Trouble {
        /// Why.
        text: String,
    },
    /// Nothing follows. A guest that ends without it has died.
    End,
}

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
