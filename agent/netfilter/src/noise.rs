//! What `iptables` and `nft` print, for the fuzz targets.

use serde_json::Value;

use super::ruleset;
use super::traffic::iptables::{count, is_absence, version};

const JUMP: &str = "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD";

/// What `iptables --version`, `iptables -S` and a failing `iptables` print.
pub fn iptables(text: &str) {
    if let Some((major, minor, patch)) = version(text) {
        let again = version(&format!("v{major}.{minor}.{patch}"));
        assert_eq!(again, Some((major, minor, patch)), "{text:?}");
    }
    is_absence(text);
    let jumps = count(text, JUMP);
    assert_eq!(
        count(&format!("{text}\n{JUMP}\n"), JUMP),
        jumps + 1,
        "{text:?}"
    );
}

/// What `nft -j list table` prints: the same text is the same table, and no handle is left.
pub fn nft(printed: &[u8]) {
    let table = ruleset::read(printed);
    assert_eq!(table, ruleset::read(printed));
    assert!(!has_handle(&table), "{table}");
}

fn has_handle(value: &Value) -> bool {
    match value {
        Value::Array(entries) => entries.iter().any(has_handle),
        Value::Object(fields) => fields.contains_key("handle") || fields.values().any(has_handle),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
