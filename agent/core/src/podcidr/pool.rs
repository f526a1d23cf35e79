//! One range of addresses, cut into prefixes of one length.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::subnet::Subnet;

/// The most prefixes of one range, as a power of two: Kubernetes' own controller has 16.
const MOST_BITS: u8 = 24;

/// A range that cannot be.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum PoolError {
    /// The length of the prefixes is not one within the range.
    #[error(
        "node mask size {len} does not fit the cluster CIDR {range}: write {} to {most}",
        range.prefix()
    )]
    Length {
        /// The range.
        range: Subnet,
        /// The length.
        len: u8,
        /// The greatest that would do.
        most: u8,
    },
}

/// A range, which of its prefixes are held, and which were a moment ago.
#[derive(Clone, Debug)]
pub struct Pool {
    range: Subnet,
    len: u8,
    /// How many Nodes hold a prefix, by its place in the range; those that none holds are not in
    /// it.
    held: BTreeMap<u32, u32>,
    /// Until when a prefix rests that nobody holds any more.
    resting: BTreeMap<u32, Duration>,
    /// Where to look first: behind what was given last.
    next: u32,
}

impl Pool {
    /// All of it is free.
    pub fn new(range: Subnet, len: u8) -> Result<Self, PoolError> {
        let bits = if range.network().is_ipv4() { 32 } else { 128 };
        let most = bits.min(range.prefix().saturating_add(MOST_BITS));
        if !(range.prefix()..=most).contains(&len) {
            return Err(PoolError::Length { range, len, most });
        }
        Ok(Self {
            range,
            len,
            held: BTreeMap::new(),
            resting: BTreeMap::new(),
            next: 0,
        })
    }

    /// The range.
    pub fn range(&self) -> Subnet {
        self.range
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.range.network().is_ipv4()
    }

    /// How many prefixes there are.
    pub fn size(&self) -> u32 {
        1 << self.len.saturating_sub(self.range.prefix()).min(MOST_BITS)
    }

    /// How many of them are held.
    pub fn held(&self) -> u32 {
        u32::try_from(self.held.len()).unwrap_or(u32::MAX)
    }

    /// A Node holds this prefix, which may be larger or smaller than ours, or outside.
    pub(super) fn hold(&mut self, subnet: Subnet) {
        for place in self.places(subnet) {
            *self.held.entry(place).or_default() += 1;
            self.resting.remove(&place);
        }
    }

    /// It does not any more; what nobody holds now rests until `until`.
    pub(super) fn release(&mut self, subnet: Subnet, until: Option<Duration>) {
        for place in self.places(subnet) {
            let Some(count) = self.held.get_mut(&place) else {
                continue;
            };
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.held.remove(&place);
                if let Some(until) = until {
                    self.resting.insert(place, until);
                }
            }
        }
    }

    /// How many Nodes hold some of this prefix, at most, in any place.
    pub(super) fn holders(&self, subnet: Subnet) -> u32 {
        let places = self.places(subnet);
        let counts = places.filter_map(|place| self.held.get(&place).copied());
        counts.max().unwrap_or_default()
    }

    /// Gives next what is behind everything that is held: what lies before it and is free may
    /// have been somebody's a moment ago.
    pub(super) fn begin_behind(&mut self) {
        let last = self.held.keys().next_back();
        self.next = last.map_or(0, |last| last.saturating_add(1) % self.size());
    }

    /// A prefix that nobody holds, and which does not rest; if all that are free rest, the one
    /// that has rested longest. `None`: all are held.
    pub(super) fn pick(&mut self, now: Duration) -> Option<Subnet> {
        self.resting.retain(|_, until| *until > now);
        let free =
            |place: &u32| !self.held.contains_key(place) && !self.resting.contains_key(place);
        let size = self.size();
        let place = (self.next..size).chain(0..self.next).find(free);
        let rested = || self.resting.iter().min_by_key(|(_, until)| **until);
        let place = place.or_else(|| rested().map(|(place, _)| *place))?;
        self.next = place.saturating_add(1) % size;
        Some(self.at(place))
    }

    /// The prefix at a place.
    fn at(&self, place: u32) -> Subnet {
        let place = u128::from(place);
        let address = match self.range.network() {
            IpAddr::V4(first) => {
                let shift = 32_u32.saturating_sub(self.len.into());
                let offset = place.checked_shl(shift).unwrap_or_default();
                let bits = u128::from(u32::from(first)) | offset;
                IpAddr::V4(Ipv4Addr::from(u32::try_from(bits).unwrap_or_default()))
            }
            IpAddr::V6(first) => {
                let shift = 128_u32.saturating_sub(self.len.into());
                let offset = place.checked_shl(shift).unwrap_or_default();
                IpAddr::V6(Ipv6Addr::from(u128::from(first) | offset))
            }
        };
        // A length that was checked is one for its own family.
        IpNetwork::new(address, self.len).map_or(self.range, Subnet::containing)
    }

    /// The places that a prefix overlaps.
    fn places(&self, subnet: Subnet) -> std::ops::Range<u32> {
        let (first, bits) = number(self.range.network());
        let (begin, other_bits) = number(subnet.network());
        if bits != other_bits {
            return 0..0;
        }
        let span = |len: u8| 1_u128.checked_shl(bits.saturating_sub(len.into()));
        // A prefix of no length is everything.
        let end = span(subnet.prefix()).and_then(|span| begin.checked_add(span));
        let (begin, each) = (
            begin.saturating_sub(first),
            span(self.len).unwrap_or(u128::MAX),
        );
        let size = u128::from(self.size());
        let end = match end {
            Some(end) => end.saturating_sub(first).div_ceil(each).min(size),
            None => size,
        };
        let begin = (begin / each).min(size);
        let small = |place: u128| u32::try_from(place).unwrap_or(u32::MAX);
        small(begin)..small(end)
    }
}

/// An address as a number, and how many bits addresses of its family have.
fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u32::from(address).into(), 32),
        IpAddr::V6(address) => (address.into(), 128),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        Subnet::containing(text.parse().unwrap())
    }

    fn pool(range: &str, len: u8) -> Pool {
        Pool::new(subnet(range), len).unwrap()
    }

    const NOW: Duration = Duration::from_secs(1000);
    const LATER: Duration = Duration::from_secs(1300);

    fn picks(pool: &mut Pool, count: usize, now: Duration) -> Vec<String> {
        let mut pick = || {
            let picked = pool.pick(now)?;
            pool.hold(picked);
            Some(picked.to_string())
        };
        (0..count).map_while(|_| pick()).collect()
    }

    #[test]
    fn prefixes_are_given_in_their_order() {
        for (range, len, expected) in [
            (
                "10.244.0.0/16",
                24,
                ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"],
            ),
            (
                "10.0.0.0/8",
                26,
                ["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26"],
            ),
            (
                "fd00:10::/48",
                64,
                ["fd00:10::/64", "fd00:10:0:1::/64", "fd00:10:0:2::/64"],
            ),
            (
                "fd00::/112",
                120,
                ["fd00::/120", "fd00::100/120", "fd00::200/120"],
            ),
        ] {
            assert_eq!(picks(&mut pool(range, len), 3, NOW), expected);
        }
        assert_eq!(picks(&mut pool("10.0.0.0/24", 24), 3, NOW), ["10.0.0.0/24"]);
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for (range, len, good) in [
            ("10.244.0.0/16", 16, true),
            ("10.244.0.0/16", 15, false),
            ("10.244.0.0/16", 32, true),
            ("10.244.0.0/16", 33, false),
            ("fd00::/48", 64, true),
            ("fd00::/48", 73, false),
            ("fd00::/120", 129, false),
        ] {
            assert_eq!(Pool::new(subnet(range), len).is_ok(), good, "{range} {len}");
        }
    }

    /// A node's routes, FDB entries and pods of a moment ago are not those of the next one.
    #[test]
    fn what_was_given_back_rests() {
        let mut pool = pool("10.0.0.0/30", 32);
        assert_eq!(picks(&mut pool, 3, NOW).len(), 3);
        pool.release(subnet("10.0.0.0/32"), Some(LATER));
        assert_eq!(picks(&mut pool, 1, NOW), ["10.0.0.3/32"]);
        // Nothing else is left: better this one than none.
        pool.release(subnet("10.0.0.1/32"), Some(LATER + NOW));
        assert_eq!(picks(&mut pool, 1, NOW), ["10.0.0.0/32"]);
        assert_eq!(picks(&mut pool, 1, NOW), ["10.0.0.1/32"]);
        assert_eq!(picks(&mut pool, 1, NOW), Vec::<String>::new());
    }

    #[test]
    fn a_prefix_of_another_length_takes_every_place_that_it_overlaps() {
        let mut pool = pool("10.0.0.0/22", 24);
        pool.hold(subnet("10.0.0.0/23"));
        pool.hold(subnet("10.0.2.128/25"));
        pool.hold(subnet("192.168.0.0/24"));
        pool.hold(subnet("fd00::/64"));
        assert_eq!(pool.held(), 3);
        assert_eq!(picks(&mut pool, 2, NOW), ["10.0.3.0/24"]);
        pool.hold(subnet("0.0.0.0/0"));
        assert_eq!(pool.held(), 4);
        assert_eq!(pool.holders(subnet("10.0.0.0/24")), 2);
        assert_eq!(pool.holders(subnet("11.0.0.0/24")), 0);
    }

    #[test]
    fn after_a_start_what_lies_behind_is_given_first() {
        let mut pool = pool("10.0.0.0/22", 24);
        pool.hold(subnet("10.0.1.0/24"));
        pool.begin_behind();
        assert_eq!(
            picks(&mut pool, 3, NOW),
            ["10.0.2.0/24", "10.0.3.0/24", "10.0.0.0/24"]
        );
        pool.begin_behind();
        assert_eq!(pool.next, 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Pick,
        Hold(u32),
        Release(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Pick),
            1 => (0..64_u32).prop_map(Step::Hold),
            2 => (0..64_usize).prop_map(Step::Release),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever happens, nobody gets what somebody holds, and as long as one is free there
        /// is one.
        #[test]
        fn no_prefix_is_given_twice(steps in steps(), v6: bool) {
            let (range, len) = if v6 { ("fd00::/58", 64) } else { ("10.0.0.0/18", 24) };
            let mut pool = pool(range, len);
            let mut held: Vec<Subnet> = Vec::new();
            for (second, step) in steps.into_iter().enumerate() {
                let now = Duration::from_secs(second as u64);
                match step {
                    Step::Pick => {
                        let picked = pool.pick(now);
                        let taken: std::collections::BTreeSet<_> = held.iter().collect();
                        prop_assert_eq!(picked.is_some(), taken.len() < 64);
                        if let Some(picked) = picked {
                            prop_assert!(!held.contains(&picked));
                            prop_assert_eq!(picked.prefix(), len);
                            pool.hold(picked);
                            held.push(picked);
                        }
                    }
                    Step::Hold(place) => {
                        let subnet = pool.at(place);
                        prop_assert_eq!(pool.places(subnet), place..place + 1);
                        pool.hold(subnet);
                        held.push(subnet);
                    }
                    Step::Release(which) => {
                        if which < held.len() {
                            let subnet = held.swap_remove(which);
                            pool.release(subnet, Some(now + Duration::from_secs(20)));
                        }
                    }
                }
            }
        }
    }
}
