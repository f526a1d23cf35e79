//! Taints of Nodes, and those that are to be taken away.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A taint, as a Node has it; fields that are not known here stay as they are.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// What it does.
    #[serde(default)]
    pub effect: String,
    /// The rest.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// Which taints are to be taken away: `key`, `key:effect` or `key=value:effect`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TaintPattern {
    key: String,
    value: Option<String>,
    effect: Option<String>,
}

/// Text that names no taints.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "taint {0:?}: write key, key:effect or key=value:effect, with NoSchedule, PreferNoSchedule or NoExecute"
)]
pub struct ParseTaintError(String);

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

impl TaintPattern {
    /// Whether it is meant.
    pub fn matches(&self, taint: &Taint) -> bool {
        self.key == taint.key
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
            && self
                .effect
                .as_ref()
                .is_none_or(|effect| *effect == taint.effect)
    }
}

impl FromStr for TaintPattern {
    type Err = ParseTaintError;

    fn from_str(text: &str) -> Result<Self, ParseTaintError> {
        let wrong = || ParseTaintError(text.chars().take(200).collect());
        let (rest, effect) = match text.split_once(':') {
            Some((rest, effect)) if EFFECTS.contains(&effect) => (rest, Some(effect.to_owned())),
            Some(_) => return Err(wrong()),
            None => (text, None),
        };
        let (key, value) = match rest.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (rest, None),
        };
        let is_good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || !key.chars().all(is_good) {
            return Err(wrong());
        }
        Ok(Self {
            key: key.to_owned(),
            value,
            effect,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_name() {
        let taint = |key: &str, value: &str, effect: &str| Taint {
            key: key.to_owned(),
            value: value.to_owned(),
            effect: effect.to_owned(),
            rest: serde_json::Map::new(),
        };
        let ours = taint(
            "tke.cloud.tencent.com/eni-ip-unavailable",
            "true",
            "NoSchedule",
        );
        for (pattern, expected) in [
            ("tke.cloud.tencent.com/eni-ip-unavailable", true),
            ("tke.cloud.tencent.com/eni-ip-unavailable:NoSchedule", true),
            ("tke.cloud.tencent.com/eni-ip-unavailable:NoExecute", false),
            (
                "tke.cloud.tencent.com/eni-ip-unavailable=true:NoSchedule",
                true,
            ),
            (
                "tke.cloud.tencent.com/eni-ip-unavailable=false:NoSchedule",
                false,
            ),
            ("eni-ip-unavailable", false),
        ] {
            let pattern: TaintPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&ours), expected, "{pattern:?}");
        }
        for bad in ["", ":NoSchedule", "a:No", "=x:NoSchedule", "a b", "a:"] {
            assert!(bad.parse::<TaintPattern>().is_err(), "{bad:?}");
        }
    }
}
