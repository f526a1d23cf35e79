//! What stores answer, for [`crate::noise`].

use super::{etcd, server};

/// A key of etcd, a line feed, and its value.
pub(crate) fn etcd(text: &[u8]) {
    etcd::noise(text);
}

/// A list, a lease or the lines of a watch, as the lease server sends them, however they are cut.
pub(crate) fn server(text: &[u8]) {
    server::noise(text);
}
