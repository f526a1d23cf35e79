//! What the lease server reads, from its file and from nodes, for [`crate::noise`].

use axum::http::{HeaderMap, HeaderValue, header};

use super::clock::Timestamp;
use super::record::StoredRecord;
use super::{disk, request};

/// A key of the file, a line feed, and its value: what is taken is read again as it is written.
pub(crate) fn record(text: &[u8]) {
    let end = text.iter().position(|&byte| byte == b'\n');
    let (key, value) = text.split_at(end.unwrap_or(text.len()));
    let key = String::from_utf8_lossy(key);
    let Ok(record) = disk::parse(&key, value.get(1..).unwrap_or_default()) else {
        return;
    };
    // Whatever the clock says.
    for now in [0, 1_800_000_000_000, u64::MAX] {
        let now = Timestamp(now);
        drop(record.lease(now));
        if let Some(term) = record.term {
            let resumed = term.resumed(now);
            assert!(resumed.ends.since(now) <= resumed.granted, "{resumed:?}");
        }
    }
    if let Ok(written) = serde_json::to_vec(&StoredRecord::from(&record)) {
        let again = disk::parse(&record.subnet.to_string(), &written).ok();
        assert_eq!(again, Some(record));
    }
}

/// The body of a node's request, and a subnet in its path.
pub(crate) fn request(text: &[u8]) {
    let json = HeaderValue::from_static("application/json");
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, json)]);
    drop(request::acquire(&headers, text));
    if let Ok(attrs) = request::attrs(&headers, text) {
        assert!(!attrs.public_ip.is_unspecified());
    }
    let text = String::from_utf8_lossy(text);
    if let Ok(subnet) = request::subnet_key(&text) {
        assert_eq!(request::subnet_key(&subnet.to_key()).ok(), Some(subnet));
    }
}
