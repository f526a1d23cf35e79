//! Where sockets are opened: in this process's own network namespace, or in another.

use std::fs::{self, File};

use anyhow::{Context, Result};
use twill_testbed::netns::{Namespace, enter_file};

/// A network namespace to open sockets in.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The one that this process is in.
    Here,
    /// Another.
    Inside(&'a Namespace),
}

impl Place<'_> {
    /// Does something inside. Sockets opened there stay there.
    pub(crate) fn within<T: Send>(self, work: impl FnOnce() -> T + Send) -> Result<T> {
        match self {
            Self::Here => Ok(work()),
            Self::Inside(namespace) => namespace.enter(work),
        }
    }

    /// A way in for a thread that stays.
    pub(crate) fn door(self) -> Result<Door> {
        match self {
            Self::Here => Ok(Door(None)),
            Self::Inside(namespace) => Ok(Door(Some(namespace.open()?))),
        }
    }

    /// TCP segments that were sent again here, ever.
    pub(crate) fn retransmits(self) -> Result<u64> {
        // Of the thread that reads it, not of the process.
        const FILE: &str = "/proc/thread-self/net/snmp";
        let text = self
            .within(|| fs::read_to_string(FILE))?
            .with_context(|| format!("read {FILE}"))?;
        retransmits_in(&text).with_context(|| format!("no RetransSegs in {FILE}"))
    }
}

/// A way into a namespace for a thread that stays there.
#[derive(Debug)]
pub(crate) struct Door(Option<File>);

impl Door {
    /// Takes the calling thread in, for good.
    pub(crate) fn enter(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), enter_file)
    }
}

/// Two lines begin with `Tcp:`: the names, and the values in the same order.
fn retransmits_in(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs.find(|(name, _)| *name == "RetransSegs")?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_under_the_name_is_found() {
        let text = "Ip: A\nIp: 1\nTcp: MaxConn RetransSegs InErrs\nTcp: -1 42 7\n";
        assert_eq!(retransmits_in(text), Some(42));
        assert_eq!(retransmits_in("Tcp: A\nTcp: 1\n"), None);
        assert!(Place::Here.retransmits().is_ok());
    }
}
