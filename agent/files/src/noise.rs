//! What the agent reads of the host and of its own files, for the fuzz targets.

use std::time::{Duration, SystemTime};

use super::{host, last_lease, status};

/// What `/proc` and `/proc/sys` say.
pub fn proc(text: &str) {
    if let Some((low, high)) = host::port_range(text) {
        assert!(low < high);
        assert_eq!(
            host::port_range(&format!("{low}\t{high}\n")),
            Some((low, high))
        );
    }
    if let Some(started) = status::start_time(text) {
        assert!(
            text.contains(&started.to_string()) || text.contains('+'),
            "{started}"
        );
    }
}

/// Files that an earlier start, another version or a person left.
pub fn own(text: &str) {
    if let Ok(status) = status::parse(text.as_bytes())
        && let Ok(written) = serde_json::to_string(&status)
    {
        assert_eq!(status::parse(written.as_bytes()).ok(), Some(status));
    }
    let Ok(last) = last_lease::parse(text.as_bytes()) else {
        return;
    };
    for seconds in [0, 1_800_000_000, u64::from(u32::MAX)] {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        if let Ok(config) = last.usable(&last.store, now) {
            assert!(config.network.covers(last.lease.subnet));
        }
    }
}
