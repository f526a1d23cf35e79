//! What we last said about an entry, so that the monitor can tell our echo from news.
//!
//! Most notifications carry the port number of whoever made the change. Two kinds come with
//! port 0 (v6.18): those about a vxlan device's FDB (`vxlan_fdb_notify()` in
//! `drivers/net/vxlan/vxlan_core.c`), and that a neighbour is gone (`neigh_cleanup_and_release()`
//! in `net/core/neighbour.c`). But one that says exactly what we last said ourselves is no news,
//! whoever caused it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use twill_core::vtep::MacAddr;

/// Something about an entry on our device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fact {
    /// The MAC address has this destination.
    Fdb(MacAddr, IpAddr),
    /// The MAC address no longer has this destination.
    NoFdb(MacAddr, IpAddr),
    /// The address is no longer a neighbour.
    NoNeighbor(IpAddr),
}

/// What a fact is about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Subject {
    /// The FDB entry of a MAC address.
    Fdb(MacAddr),
    /// A neighbour.
    Neighbor(IpAddr),
}

impl Fact {
    fn subject(self) -> Subject {
        match self {
            Self::Fdb(mac, _) | Self::NoFdb(mac, _) => Subject::Fdb(mac),
            Self::NoNeighbor(address) => Subject::Neighbor(address),
        }
    }
}

/// The last that we said about each subject.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<HashMap<Subject, Fact>>);

impl Said {
    /// We are about to say this.
    pub(super) fn say(&self, fact: Fact) {
        self.map(|said| said.insert(fact.subject(), fact));
    }

    /// What we said no longer holds, or the kernel did not take it.
    pub(super) fn take_back(&self, subject: Subject) {
        self.map(|said| said.remove(&subject));
    }

    /// The device is another now.
    pub(super) fn forget_all(&self) {
        self.map(HashMap::clear);
    }

    /// Whether a notification only repeats what we said.
    pub(super) fn is_echo(&self, fact: Fact) -> bool {
        self.map(|said| {
            let echo = said.get(&fact.subject()) == Some(&fact);
            // Nothing more can come of an entry that is gone.
            if echo && !matches!(fact, Fact::Fdb(..)) {
                said.remove(&fact.subject());
            }
            echo
        })
    }

    fn map<T>(&self, work: impl FnOnce(&mut HashMap<Subject, Fact>) -> T) -> T {
        // Each use is one map operation: there is no half-done state to be afraid of.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn only_the_last_word_is_an_echo() {
        let said = Said::default();
        assert!(!said.is_echo(Fact::Fdb(MAC, HERE)), "nothing was said");
        said.say(Fact::Fdb(MAC, HERE));
        assert!(said.is_echo(Fact::Fdb(MAC, HERE)));
        assert!(said.is_echo(Fact::Fdb(MAC, HERE)), "as often as it comes");
        assert!(!said.is_echo(Fact::Fdb(MAC, THERE)), "somebody moved it");
        assert!(!said.is_echo(Fact::NoFdb(MAC, HERE)), "somebody removed it");
    }

    #[test]
    fn a_removal_is_an_echo_once() {
        let said = Said::default();
        for fact in [Fact::NoFdb(MAC, HERE), Fact::NoNeighbor(HERE)] {
            said.say(fact);
            assert!(said.is_echo(fact));
            assert!(!said.is_echo(fact));
        }
    }
}
