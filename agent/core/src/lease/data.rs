//! What a backend publishes of itself.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Any JSON value, kept as its text: a tree of it would be most of what a lease takes of memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendData(Box<str>);

impl BackendData {
    /// The value.
    pub fn value(&self) -> Value {
        // Written by `From`, so it is JSON.
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// The value as JSON, in its shortest form and with an object's keys in order.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&Value> for BackendData {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl<'de> Deserialize<'de> for BackendData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| Self::from(&value))
    }
}

impl Serialize for BackendData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_is_what_it_was_and_the_same_whatever_its_form() {
        let forms = [
            [
                r#"{"b": [1, 2.5, null], "a": "\u00e4"}"#,
                r#"{"a":"ä","b":[1,2.5,null]}"#,
            ],
            [" 7 ", "7"],
            [r#""x""#, r#" "x""#],
            ["18446744073709551615", "18446744073709551615"],
            ["1.3333333333333335e113", "13333333333333335e97"],
        ];
        for [one, other] in forms {
            let value: Value = serde_json::from_str(one).unwrap();
            let [one, other]: [BackendData; 2] =
                [one, other].map(|text| serde_json::from_str(text).unwrap());
            assert_eq!(one, other);
            assert_eq!(one.value(), value);
            assert_eq!(serde_json::to_value(&one).unwrap(), value);
            let written = serde_json::to_string(&one).unwrap();
            assert_eq!(serde_json::from_str::<BackendData>(&written).unwrap(), one);
        }
    }
}
