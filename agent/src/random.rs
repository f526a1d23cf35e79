//! Chance, for choosing subnets, naming stores and seeding hashes. Not for keys.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// Any number: the standard library seeds every [`RandomState`] from the system's chance.
pub(crate) fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// One of `0..count`; 0 if there is none.
pub(crate) fn index(count: usize) -> usize {
    let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
    usize::try_from(number() % count).unwrap_or(0)
}

/// From 0 up to, not including, 1.
pub(crate) fn fraction() -> f64 {
    let bits = u32::try_from(number() >> 32).unwrap_or_default();
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_index_comes_up_and_no_other() {
        let seen: BTreeSet<usize> = (0..10_000).map(|_| index(100)).collect();
        assert_eq!(seen, (0..100).collect());
        assert_eq!(index(0), 0);
    }
}
