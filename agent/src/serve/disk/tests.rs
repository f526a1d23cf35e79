//! The file, whole and damaged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::super::clock::Timestamp;
use super::super::record::Term;
use super::*;

fn record(n: u8) -> Record {
    let attrs = format!(
        r#"{{"PublicIP":"192.0.2.{n}","BackendType":"vxlan",
            "BackendData":{{"VNI":1,"VtepMAC":"02:00:5e:10:00:{n:02x}"}}}}"#
    );
    Record {
        subnet: format!("10.244.{n}.0/24").parse().unwrap(),
        attrs: serde_json::from_str(&attrs).unwrap(),
        term: (n % 2 == 1).then_some(Term {
            granted: Duration::from_mins(1),
            ends: Timestamp(1_800_000_000_000),
        }),
    }
}

fn added(revision: u64, n: u8) -> Change {
    Change::Added {
        revision,
        record: Arc::new(record(n)),
    }
}

/// A directory with a closed store of 20 leases.
fn filled() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = Disk::open(directory.path()).unwrap();
    for n in 1..=20 {
        disk.commit(u64::from(n), &[added(u64::from(n), n)])
            .unwrap();
    }
    directory
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by_key(|record| record.subnet);
    records
}

#[test]
fn a_new_store_is_empty_and_has_a_name_of_its_own() {
    let names: Vec<String> = (0..2)
        .map(|_| {
            let directory = tempfile::tempdir().unwrap();
            let (disk, stored) = Disk::open(directory.path()).unwrap();
            assert_eq!((stored.revision, stored.records), (0, vec![]));
            drop(disk);
            let (_, again) = Disk::open(directory.path()).unwrap();
            assert_eq!(again.store, stored.store);
            stored.store
        })
        .collect();
    assert_ne!(names[0], names[1]);
}

#[test]
fn what_was_committed_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = Disk::open(directory.path()).unwrap();
    disk.commit(3, &[added(1, 1), added(2, 2), added(3, 3)])
        .unwrap();
    let removed = Change::Removed {
        revision: 4,
        subnet: record(2).subnet,
    };
    let mut renewed = record(3);
    renewed.term = Some(Term::starting(Timestamp(5), Duration::from_secs(7)));
    disk.commit(4, &[removed, Change::Renewed(Arc::new(renewed.clone()))])
        .unwrap();
    drop(disk);
    let (_, stored) = Disk::open(directory.path()).unwrap();
    assert_eq!(stored.revision, 4);
    assert_eq!(sorted(stored.records), [record(1), renewed]);
}

#[test]
fn a_directory_serves_one_server() {
    let directory = tempfile::tempdir().unwrap();
    let (_disk, _) = Disk::open(directory.path()).unwrap();
    assert!(matches!(
        Disk::open(directory.path()),
        Err(Error::InUse { .. })
    ));
}

#[test]
fn a_store_that_was_begun_and_not_finished_is_begun_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("leases.redb.new"), b"half of a store").unwrap();
    let (_, stored) = Disk::open(directory.path()).unwrap();
    assert_eq!(stored.records, []);
}

#[test]
fn a_file_that_is_no_store_is_an_error_and_stays() {
    let no_store: [&[u8]; 3] = [b"", b"these are my notes", &[0; 4096]];
    for content in no_store {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(&path, content).unwrap();
        let error = Disk::open(directory.path()).unwrap_err();
        assert!(matches!(error, Error::Open { .. }), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn a_database_of_somebody_else_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    drop(Database::create(directory.path().join(FILE)).unwrap());
    let error = Disk::open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
}

#[test]
fn a_store_of_a_later_format_is_an_error() {
    let directory = filled();
    let database = Database::open(directory.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(NUMBERS)
        .unwrap()
        .insert(FORMAT_KEY, 2)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Disk::open(directory.path()).unwrap_err().to_string();
    assert!(
        error.ends_with("its format is 2, this server reads format 1"),
        "{error}"
    );
}

#[test]
fn a_lease_that_cannot_be_read_is_an_error_that_names_it() {
    let directory = filled();
    let database = Database::open(directory.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    let value: &[u8] = br#"{"attrs":{},"term":null}"#;
    transaction
        .open_table(LEASES)
        .unwrap()
        .insert("10.244.7.0/24", value)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Disk::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("10.244.7.0/24"), "{error}");
    assert!(error.contains(r#""attrs\":{}"#), "{error}");
}

/// Every damage is either noticed, or did not touch what the store says.
#[test]
fn a_damaged_file_is_an_error_or_reads_the_same() {
    let directory = filled();
    let path = directory.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    let (disk, stored) = Disk::open(directory.path()).unwrap();
    drop(disk);
    let expected = sorted(stored.records);
    let mut noticed = 0;
    let mut damaged: Vec<Vec<u8>> = [1, 64, 4096, whole.len() / 2, whole.len() - 1]
        .map(|length| whole[..length].to_vec())
        .to_vec();
    let mut place = 0;
    while place < whole.len() {
        let mut copy = whole.clone();
        copy[place] ^= 0x5a;
        damaged.push(copy);
        // The head densely, the body every few hundred bytes.
        place += if place < 512 { 7 } else { 1531 };
    }
    for content in damaged {
        fs::write(&path, content).unwrap();
        let opened = catch_unwind(AssertUnwindSafe(|| Disk::open(directory.path())));
        match opened.expect("a damaged file made the server panic") {
            Ok((_, stored)) => assert_eq!(sorted(stored.records), expected),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 5, "only {noticed} damages were noticed");
}

/// Where whole blocks are another file's, the database trusts what it reads, and panics.
#[test]
fn a_file_that_is_mostly_rubbish_is_an_error_with_what_to_do() {
    let directory = filled();
    let path = directory.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    let mut damaged_by = 0;
    for block in [512, 4096] {
        for fill in [0x00, 0x5a, 0xff] {
            for first in [64, 512, 4096, 8192] {
                let mut content = whole.clone();
                for start in (first..content.len()).step_by(2 * block) {
                    let end = content.len().min(start + block);
                    content[start..end].fill(fill);
                }
                fs::write(&path, &content).unwrap();
                let opened = catch_unwind(AssertUnwindSafe(|| Disk::open(directory.path())));
                match opened.expect("a damaged file made the server panic") {
                    Err(error @ Error::Damaged { .. }) => {
                        damaged_by += 1;
                        let text = error.to_string();
                        assert!(text.contains("restore it from a copy"), "{text}");
                        assert!(!text.contains('\n'), "{text}");
                    }
                    Err(_) => {}
                    Ok((_, stored)) => assert!(stored.records.len() <= 20),
                }
            }
        }
    }
    assert!(damaged_by > 0, "nothing panics any more");
}

#[test]
fn what_is_stored_anew_is_that_and_nothing_else() {
    let directory = filled();
    let (disk, _) = Disk::open(directory.path()).unwrap();
    let records = [Arc::new(record(3)), Arc::new(record(30))];
    disk.rewrite(40, &records).unwrap();
    disk.commit(41, &[added(41, 31)]).unwrap();
    drop(disk);
    let (_, stored) = Disk::open(directory.path()).unwrap();
    assert_eq!(stored.revision, 41);
    let expected = [3, 30, 31].map(record).to_vec();
    assert_eq!(sorted(stored.records), sorted(expected));
}
