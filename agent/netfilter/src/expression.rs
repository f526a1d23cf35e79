//! Parts of nftables rules, in the JSON of `libnftables-json(5)`.

use serde_json::{Value, json};

/// The packet mark.
pub(super) fn mark() -> Value {
    json!({ "meta": { "key": "mark" } })
}

/// Some bits of an expression.
pub(super) fn and(left: &Value, right: u32) -> Value {
    json!({ "&": [left, right] })
}

/// The IPv4 source (`saddr`) or destination (`daddr`) address.
pub(super) fn address(direction: &str) -> Value {
    json!({ "payload": { "protocol": "ip", "field": direction } })
}

/// A network.
pub(super) fn prefix(address: &impl ToString, len: u8) -> Value {
    json!({ "prefix": { "addr": address.to_string(), "len": len } })
}

/// A match.
pub(super) fn equals(left: &Value, right: &Value) -> Value {
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

/// A match of anything else.
pub(super) fn differs(left: &Value, right: &Value) -> Value {
    json!({ "match": { "op": "!=", "left": left, "right": right } })
}

/// A match of anything smaller.
pub(super) fn below(left: &Value, right: &Value) -> Value {
    json!({ "match": { "op": "<", "left": left, "right": right } })
}

/// A match of TCP.
pub(super) fn is_tcp() -> Value {
    equals(&json!({ "meta": { "key": "l4proto" } }), &json!("tcp"))
}

/// Sets the packet mark.
pub(super) fn set_mark(value: &Value) -> Value {
    json!({ "mangle": { "key": mark(), "value": value } })
}
