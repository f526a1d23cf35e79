//! What each line of a watch says.

use twill_core::lease::Lease;
use twill_core::subnet::Subnet;

use super::*;

fn subnet(n: u8) -> Subnet {
    format!("10.244.{n}.0/24").parse().unwrap()
}

fn lease(n: u8) -> Lease {
    let text = format!(
        r#"{{"subnet":"10.244.{n}.0/24","attrs":{{"PublicIP":"192.0.2.{n}"}},"ttl_seconds":3600}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// Store `a` at revision 10.
fn cursor() -> Cursor {
    let mut cursor = Cursor::default();
    cursor.listed("a".to_owned(), 10);
    cursor
}

fn added(revision: u64, lease: &Lease) -> String {
    let lease = serde_json::to_string(lease).unwrap();
    format!(r#"{{"revision":{revision},"type":"added","lease":{lease}}}"#)
}

fn bookmark(revision: u64, store: &str) -> String {
    format!(r#"{{"revision":{revision},"type":"bookmark","store":"{store}"}}"#)
}

fn said(cursor: &mut Cursor, line: &str) -> Said {
    cursor.line(line.as_bytes()).unwrap()
}

#[test]
fn a_watch_says_what_happened() {
    let mut cursor = cursor();
    assert_eq!(
        said(&mut cursor, &added(11, &lease(4))),
        Said::Put(lease(4))
    );
    let removed = r#"{"revision":12,"type":"removed","subnet":"10.244.1.0/24"}"#;
    assert_eq!(said(&mut cursor, removed), Said::Gone(subnet(1)));
    assert_eq!(said(&mut cursor, &bookmark(12, "a")), Said::Bookmark);
    assert_eq!(cursor.resume(), Some(("a", 12)));
}

#[test]
fn a_changed_lease_that_cannot_be_read_is_no_change() {
    let mut cursor = cursor();
    let line = r#"{"revision":11,"type":"added","lease":{"subnet":"10.244.2.0/24","attrs":{}}}"#;
    let Said::Unread(unread) = said(&mut cursor, line) else {
        panic!("it was taken");
    };
    assert_eq!(unread.subnet, Some(subnet(2)));
    assert_eq!(cursor.resume(), Some(("a", 11)));
}

#[test]
fn a_line_that_cannot_be_trusted_changes_nothing_and_asks_for_a_list() {
    for line in [
        String::new(),
        "null".to_owned(),
        "<html>".to_owned(),
        r#"{"revision":11}"#.to_owned(),
        r#"{"revision":11,"type":"flushed"}"#.to_owned(),
        r#"{"revision":11,"type":"removed","subnet":"10.244.1.0"}"#.to_owned(),
        r#"{"revision":11,"type":"removed","subnet":"10.244.1.0/24""#.to_owned(),
        // Changes were lost, or come again.
        r#"{"revision":12,"type":"removed","subnet":"10.244.1.0/24"}"#.to_owned(),
        r#"{"revision":10,"type":"removed","subnet":"10.244.1.0/24"}"#.to_owned(),
        added(13, &lease(4)),
        bookmark(11, "a"),
        bookmark(9, "a"),
        bookmark(10, "b"),
        r#"{"revision":10,"type":"gone","error":"too slow"}"#.to_owned(),
    ] {
        let mut cursor = cursor();
        let position = cursor.position();
        assert!(cursor.line(line.as_bytes()).is_err(), "{line} was taken");
        assert_eq!(cursor.resume(), None, "{line}");
        assert_eq!(cursor.position(), position, "{line}");
    }
}
