//! The name that keeps several agents on one kernel apart.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Name of an agent: a folder of the pins and of the run directory.
///
/// A BPF file system refuses dots in names (`bpf_lookup()` in `kernel/bpf/inode.c`), and
/// a folder's name holds no slash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InstanceName(String);

/// Text that is no instance name.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "instance name {0:?}: write 1 to {LONGEST} of the characters a-z, 0-9, '-' and '_', \
     as `default` or `node-1`"
)]
pub struct ParseInstanceError(pub String);

/// What an agent is called that shares its kernel with no other.
const DEFAULT: &str = "default";

/// Longest name, in bytes.
const LONGEST: usize = 64;

impl InstanceName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of this instance's nftables table, and the beginning of its others' names: one
    /// that has its host to itself uses `twill`.
    pub fn table(&self) -> String {
        match self.as_str() {
            DEFAULT => "twill".to_owned(),
            name => format!("twill-{name}"),
        }
    }

    /// The alias (`IFLA_IFALIAS`) of a device that this instance made: the proof, across
    /// restarts, that it may remove it. A device that it found carries none.
    pub fn device_mark(&self) -> String {
        format!("twill:{self}")
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for InstanceName {
    type Err = ParseInstanceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c);
        if text.is_empty() || text.len() > LONGEST || !text.bytes().all(good) {
            return Err(ParseInstanceError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instance_has_a_table_of_its_own() {
        let table = |name: &str| name.parse::<InstanceName>().unwrap().table();
        assert_eq!(table("default"), "twill");
        assert_eq!(table("node-1"), "twill-node-1");
    }

    #[test]
    fn what_a_folder_of_a_bpf_file_system_may_be_called() {
        for good in ["default", "node-1", "a_b", &"x".repeat(64)] {
            assert_eq!(good.parse::<InstanceName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "a.b",
            "a/b",
            "../x",
            "A",
            "ü",
            "a b",
            &"x".repeat(65),
        ] {
            assert_eq!(
                bad.parse::<InstanceName>(),
                Err(ParseInstanceError(bad.to_owned()))
            );
        }
    }
}
