//! What we last said about FDB entries, so that the monitor can tell our echo from news.
//!
//! Notifications about routes, neighbours and addresses carry the port number of whoever made
//! the change; those about a vxlan device's FDB do not (`vxlan_fdb_notify()` in
//! `drivers/net/vxlan/vxlan_core.c`, v6.18, fills in port 0). But one that says exactly what we
//! last said ourselves is no news, whoever caused it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use twill_core::vtep::MacAddr;

/// What is so about a MAC address on our device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fdb {
    /// It has this destination.
    Is(IpAddr),
    /// It no longer has this destination.
    IsNot(IpAddr),
}

/// The last that we said about each MAC address.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<HashMap<MacAddr, Fdb>>);

impl Said {
    /// We are about to say this.
    pub(super) fn say(&self, mac: MacAddr, fdb: Fdb) {
        self.map(|said| said.insert(mac, fdb));
    }

    /// The kernel did not take it.
    pub(super) fn take_back(&self, mac: MacAddr) {
        self.map(|said| said.remove(&mac));
    }

    /// The device is another now.
    pub(super) fn forget_all(&self) {
        self.map(HashMap::clear);
    }

    /// Whether a notification only repeats what we said.
    pub(super) fn is_echo(&self, mac: MacAddr, fdb: Fdb) -> bool {
        self.map(|said| {
            let echo = said.get(&mac) == Some(&fdb);
            // Nothing more can come of an entry that is gone.
            if echo && matches!(fdb, Fdb::IsNot(_)) {
                said.remove(&mac);
            }
            echo
        })
    }

    fn map<T>(&self, work: impl FnOnce(&mut HashMap<MacAddr, Fdb>) -> T) -> T {
        // Each use is one map operation: there is no half-done state to be afraid of.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn only_the_last_word_is_an_echo() {
        let said = Said::default();
        assert!(!said.is_echo(MAC, Fdb::Is(HERE)), "nothing was said");
        said.say(MAC, Fdb::Is(HERE));
        assert!(said.is_echo(MAC, Fdb::Is(HERE)));
        assert!(said.is_echo(MAC, Fdb::Is(HERE)), "as often as it comes");
        assert!(!said.is_echo(MAC, Fdb::Is(THERE)), "somebody moved it");
        assert!(!said.is_echo(MAC, Fdb::IsNot(HERE)), "somebody removed it");
    }

    #[test]
    fn a_removal_is_an_echo_once() {
        let said = Said::default();
        said.say(MAC, Fdb::IsNot(HERE));
        assert!(said.is_echo(MAC, Fdb::IsNot(HERE)));
        assert!(!said.is_echo(MAC, Fdb::IsNot(HERE)));
    }
}
