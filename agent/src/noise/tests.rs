//! The stored corpus, and what chance makes of it: always the same, so that a failure comes back.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use super::{TARGETS, Target};

/// Changed texts for each target; some 200 µs each, most of them for making one.
const CASES: u32 = 2_000;
/// Whatever it is, it stays.
const SEED: RngSeed = RngSeed::Fixed(0x7771_6c6c);
/// Longer than this nothing grows, bytes.
const LONGEST: usize = 1 << 14;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus")
}

/// What is stored for a target, in the order of the names.
fn corpus(target: Target) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder().join(target.name)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One change of a text. Places are fractions of its length.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    Repeat(Index, u8, u8),
    Cut(Index),
    /// The beginning of this text with the end of another.
    Splice(Index, Index),
}

/// What parsers look for.
const WORDS: [&[u8]; 24] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"-1",
    b"0",
    b"1e99",
    b"1.0",
    b"18446744073709551616",
    b"4294967295",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\n",
    b" ",
    b"/",
    b"-",
    b"&",
    b"=",
    b"'",
];

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let token = prop_oneof![
        select(&WORDS[..]).prop_map(<[u8]>::to_vec),
        vec(any::<u8>(), 1..8),
    ];
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), token).prop_map(|(at, token)| Change::Insert(at, token)),
        (at(), 1..16_u8).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 1..32_u8, 1..64_u8)
            .prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        at().prop_map(Change::Cut),
        (at(), at()).prop_map(|(at, other)| Change::Splice(at, other)),
    ]
}

/// A piece of the text that begins there, of so many bytes where there are as many.
fn piece(text: &[u8], at: usize, length: u8) -> std::ops::Range<usize> {
    at..text.len().min(at + usize::from(length))
}

fn apply(text: &mut Vec<u8>, change: &Change, corpus: &[Vec<u8>]) {
    // One place more than there are bytes: the end.
    let place = |at: &Index| at.index(text.len() + 1);
    match change {
        Change::Flip(at, bit) => {
            let at = place(at);
            if let Some(byte) = text.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        Change::Set(at, value) => {
            let at = place(at);
            if let Some(byte) = text.get_mut(at) {
                *byte = *value;
            }
        }
        Change::Insert(at, token) => {
            let at = place(at);
            drop(text.splice(at..at, token.iter().copied()));
        }
        Change::Remove(at, length) => {
            let range = piece(text, place(at), *length);
            drop(text.drain(range));
        }
        Change::Repeat(at, length, times) => {
            let range = piece(text, place(at), *length);
            let again = text[range.clone()].repeat(usize::from(*times));
            drop(text.splice(range.end..range.end, again));
        }
        Change::Cut(at) => text.truncate(place(at)),
        Change::Splice(at, other) => {
            let other = other.get(corpus);
            let at = place(at);
            text.truncate(at);
            text.extend_from_slice(other.get(at..).unwrap_or_default());
        }
    }
    text.truncate(LONGEST);
}

fn changed(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec(change(), 1..6);
    (select(corpus.clone()), changes).prop_map(move |(mut text, changes)| {
        for change in &changes {
            apply(&mut text, change, &corpus);
        }
        text
    })
}

fn fed(target: Target, text: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.feed)(text))).map_err(|_panic| {
        let shown = text.escape_ascii();
        format!("{} breaks on b\"{shown}\"", target.name)
    })
}

#[test]
fn the_stored_corpus_breaks_nothing() {
    for target in TARGETS {
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        for text in &corpus {
            fed(target, text).unwrap();
        }
    }
}

#[test]
fn what_chance_makes_of_the_corpus_breaks_nothing() {
    for target in TARGETS {
        let config = Config {
            cases: CASES,
            failure_persistence: None,
            rng_seed: SEED,
            ..Config::default()
        };
        let result = TestRunner::new(config).run(&changed(corpus(target)), |text| {
            fed(target, &text).map_err(TestCaseError::fail)
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn a_target_that_breaks_is_told_with_what_broke_it() {
    let breaks = Target {
        name: "breaks",
        feed: |text| assert!(!text.contains(&b'&')),
    };
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        rng_seed: SEED,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&changed(vec![b"abc".to_vec()]), |text| {
        fed(breaks, &text).map_err(TestCaseError::fail)
    });
    let error = result.unwrap_err().to_string();
    assert!(error.contains("breaks on b\""), "{error}");
}
