//! How many files this process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// What a process may have where nobody says otherwise.
const USUAL: u64 = 1024;

/// Raises the limit to what this process is allowed to have, and gives it.
pub(crate) fn raise() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, hard)| {
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(error) => {
                warn!(%error, soft, "the limit on open files stays");
                soft
            }
        }
    })
}
