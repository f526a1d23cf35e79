//! Who talks: servers that say who they are and whom they see, flows that ask them, and pairs of
//! bare streams.

mod ends;
mod flow;
mod server;

pub(crate) use ends::{Ends, connect_from, reset_on_drop};
pub(crate) use flow::{Flow, receive};
pub(crate) use server::Server;

use std::time::Duration;

/// How long an answer may take, however busy the machine: TCP repeats a segment after up to 6.4 s
/// when it has lost five.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);
