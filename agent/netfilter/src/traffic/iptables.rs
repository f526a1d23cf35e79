//! `iptables` and `iptables-restore`, of either kind (legacy or `nf_tables`): whichever is in `PATH`.

use thiserror::Error;

use super::chains::{Chain, Found, Jumps};
use crate::program::{self, ProgramError};
use crate::ruleset;

const IPTABLES: &str = "iptables";
const RESTORE: &str = "iptables-restore";
/// Since this version there are `--random-fully` and `iptables-restore --wait`.
const RANDOM_AND_WAIT: Version = (1, 6, 2);

/// How often a chain is written before it is left to the next look.
const WRITINGS: u32 = 3;

/// Major, minor and patch.
pub(crate) type Version = (u32, u32, u32);

/// Why rules of iptables are not in force.
#[derive(Debug, Error)]
pub enum IptablesError {
    /// `iptables` could not be asked for its version.
    #[error("ask {IPTABLES:?} for its version; is it installed?")]
    Version(#[source] ProgramError),
    /// It said something else.
    #[error("`iptables --version` says {said:?}; it should be a version, as v1.8.9")]
    NoVersion {
        /// What it said.
        said: String,
    },
    /// Rules could not be read.
    #[error("read chain {chain} of iptables table {table}")]
    Read {
        /// The table.
        table: &'static str,
        /// The chain.
        chain: &'static str,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// Rules could not be written.
    #[error("write chain {chain} of iptables table {table}")]
    Write {
        /// The table.
        table: &'static str,
        /// The chain.
        chain: &'static str,
        /// Why not.
        #[source]
        source: ProgramError,
    },
}

/// The programs that are there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Iptables {
    version: Version,
}

impl Iptables {
    /// Asks for the version; `None` where there is no such program.
    pub(super) async fn find() -> Result<Option<Self>, IptablesError> {
        let said = match program::run(IPTABLES, &["--version"], "").await {
            Ok(said) => String::from_utf8_lossy(&said).trim().to_owned(),
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(IptablesError::Version(error)),
        };
        match version(&said) {
            Some(version) => Ok(Some(Self { version })),
            None => Err(IptablesError::NoVersion { said }),
        }
    }

    /// Whether it knows `--random-fully`.
    pub(super) fn has_random_fully(self) -> bool {
        self.version >= RANDOM_AND_WAIT
    }

    /// Puts the chain and the jump to it in force and gives what it is known by later.
    ///
    /// A chain that is as it should be is left as it is, the place of its jump too.
    pub(super) async fn put(self, chain: Chain) -> Result<Written, IptablesError> {
        let expected = chain.printed();
        let mut found = look(&chain).await?;
        if found.jumps.are_good() && found.ours.as_ref() == Some(&expected) {
            return Ok(Written {
                chain,
                printed: expected,
            });
        }
        // Not what was there before: that may be somebody's change, who makes it again.
        let mut before = None;
        for _ in 0..WRITINGS {
            self.restore(&chain, &chain.payload(&found)).await?;
            found = look(&chain).await?;
            // What is printed differs from version to version, and somebody may have changed the
            // chain since it was written: what is printed twice is what was written.
            if let Some(now) = &found.ours
                && (*now == expected || before.as_ref() == Some(now))
            {
                let printed = now.clone();
                return Ok(Written { chain, printed });
            }
            before.clone_from(&found.ours);
        }
        // The next look will find that it is not so.
        Ok(Written {
            chain,
            printed: expected,
        })
    }

    /// Takes the chain and every jump to it away; whether there was anything.
    pub(super) async fn remove(self, chain: &Chain) -> Result<bool, IptablesError> {
        let found = look(chain).await?;
        let nothing_of_ours = match &found.ours {
            None => !found.jumps.are_there(),
            Some(ours) => *ours == chain.printed() && !found.others.is_empty(),
        };
        if nothing_of_ours {
            return Ok(false);
        }
        self.restore(chain, &chain.removal(&found)).await?;
        Ok(true)
    }

    async fn restore(self, chain: &Chain, payload: &str) -> Result<(), IptablesError> {
        let words: &[&str] = if self.version >= RANDOM_AND_WAIT {
            &["--noflush", "--wait"]
        } else {
            &["--noflush"]
        };
        let done = program::run(RESTORE, words, payload).await;
        done.map(drop).map_err(|source| IptablesError::Write {
            table: chain.table,
            chain: chain.name,
            source,
        })
    }
}

/// A chain as the kernel had it right after it was written.
#[derive(Clone, Debug)]
pub(super) struct Written {
    chain: Chain,
    printed: String,
}

impl Written {
    /// Whether the kernel still has it, and one jump to it.
    pub(super) async fn is_so(&self) -> Result<bool, IptablesError> {
        let found = look(&self.chain).await?;
        Ok(found.jumps.are_good() && found.ours.as_ref() == Some(&self.printed))
    }
}

/// How many jumps lead to the chain, and what it holds.
async fn look(chain: &Chain) -> Result<Found, IptablesError> {
    let printed = match list(chain.table, chain.name).await {
        Ok(printed) => Some(printed),
        Err(ProgramError::Refused { said, .. }) if is_absence(&said) => None,
        Err(error) => return Err(failed(chain.table, chain.name)(error)),
    };
    // A kernel's chain is always there: not to see its jumps is to make one too many.
    let jumps = match list(chain.table, chain.hook).await {
        Ok(hook) => Jumps::Listed(count(&hook, &chain.jump())),
        // Somebody's rules of `nft`: `iptables` adds to them, but neither lists nor removes.
        Err(ProgramError::Refused { said, .. }) if is_incompatible(&said) => {
            let jumps = ruleset::has_jump("ip", chain.table, chain.hook, chain.name).await;
            // Without `nft`, whoever made the chain made the jump.
            Jumps::Hidden(jumps.unwrap_or(printed.is_some()))
        }
        Err(error) => return Err(failed(chain.table, chain.hook)(error)),
    };
    let (ours, others) = printed.map(|printed| chain.part(&printed)).unzip();
    Ok(Found {
        jumps,
        ours,
        others: others.unwrap_or_default(),
    })
}

/// How many rules of a listing are this one.
pub(crate) fn count(listing: &str, rule: &str) -> usize {
    listing.lines().filter(|line| line.trim() == rule).count()
}

async fn list(table: &str, chain: &str) -> Result<String, ProgramError> {
    let printed = program::run(IPTABLES, &["--wait", "-t", table, "-S", chain], "").await?;
    Ok(String::from_utf8_lossy(&printed).into_owned())
}

fn failed(table: &'static str, chain: &'static str) -> impl FnOnce(ProgramError) -> IptablesError {
    move |source| IptablesError::Read {
        table,
        chain,
        source,
    }
}

/// What is said of a chain that is not there: by the legacy kind, by the `nf_tables` kind since
/// 1.8.10, and by that of 1.8.9, which takes it for one that it cannot read.
pub(crate) fn is_absence(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("no chain/target/match by that name")
        || said.contains("does not exist")
        || is_incompatible(&said)
}

/// What the `nf_tables` kind says of a chain, or of a table, with rules that it cannot read: those
/// of `nft`, or of another version of itself. The second is of rules that it fails to see are
/// such.
fn is_incompatible(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("is incompatible, use 'nft' tool")
        || said.contains("parsing nftables rule failed")
}

/// The first `v1.2.3` in what `--version` prints.
pub(crate) fn version(said: &str) -> Option<Version> {
    said.match_indices('v').find_map(|(at, _)| {
        let number = said.get(at..)?.strip_prefix('v')?;
        let end = number.find(|c: char| c != '.' && !c.is_ascii_digit());
        let mut parts = number.get(..end.unwrap_or(number.len()))?.split('.');
        let mut part = || parts.next()?.parse().ok();
        Some((part()?, part()?, part()?))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_version_is_read_as_flannel_reads_it() {
        for (said, expected) in [
            ("iptables v1.8.9 (nf_tables)", Some((1, 8, 9))),
            ("iptables v1.8.9 (legacy)", Some((1, 8, 9))),
            ("iptables v1.6.1", Some((1, 6, 1))),
            ("iptables-save v1.3.66", Some((1, 3, 66))),
            ("iptables v1.8", None),
            ("", None),
            ("v v1. v1.2.x v99999999999.1.1", None),
        ] {
            assert_eq!(version(said), expected, "{said}");
        }
    }

    #[test]
    fn random_fully_came_with_1_6_2() {
        for (version, has) in [
            ((1, 4, 21), false),
            ((1, 6, 1), false),
            ((1, 6, 2), true),
            ((1, 8, 0), true),
            ((2, 0, 0), true),
        ] {
            assert_eq!(Iptables { version }.has_random_fully(), has, "{version:?}");
        }
    }

    #[test]
    fn a_chain_that_is_not_there_is_told_from_a_failure() {
        for said in [
            "iptables: No chain/target/match by that name.",
            "iptables v1.8.9 (nf_tables): chain `FLANNEL-FWD' in table `filter' is incompatible, \
             use 'nft' tool.",
        ] {
            assert!(is_absence(said), "{said}");
        }
        assert!(!is_absence(
            "Another app is currently holding the xtables lock."
        ));
        assert!(!is_absence("Fatal: can't open lock file /run/xtables.lock"));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in "\\PC*", number in "v[0-9.]*") {
            prop_assert!(version(&noise).is_none() || noise.contains('v'));
            prop_assert!(version(&number).is_none() || number.contains('.'));
            is_absence(&noise);
        }
    }
}
