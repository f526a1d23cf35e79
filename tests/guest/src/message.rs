//! What the guest tells the host: one JSON value a line on the second serial port. The first
//! is the console, where the kernel speaks.
//!
//! Both sides compile this file: the guest writes messages, xtask reads them, and one that it
//! does not know fails the run.

use serde::{Deserialize, Serialize};

/// One message.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
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
        name: String,
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
    /// What a test binary measured.
    Measured {
        /// One figure, cells parted by tabs.
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
    End {},
}
