//! JSON objects as Go's `encoding/json` reads them: keys without regard to ASCII case,
//! the last of several equal keys wins, `null` leaves a plain value as it was.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::ConfigError;

/// Characters of a value that an error repeats: the text may be anything, of any size.
const SHOWN: usize = 64;

/// A value. Objects keep their keys in the order of the text, which `Value` would lose.
#[derive(Clone, Debug)]
pub(crate) enum Json {
    Object(Object),
    Plain(Value),
}

/// An object: its keys as written, in the order of the text.
#[derive(Clone, Debug)]
pub(crate) struct Object(Vec<(String, Json)>);

/// The fields of one object, read by name; `path` is what errors put before the name.
pub(super) struct Fields<'a> {
    path: &'static str,
    object: &'a Object,
}

impl<'a> Fields<'a> {
    pub(super) fn new(path: &'static str, object: &'a Object) -> Self {
        Self { path, object }
    }

    /// The last value of that name, `null` included.
    pub(super) fn last(&self, name: &str) -> Option<&'a Json> {
        self.all(name).last()
    }

    /// The last value of that name that is not `null`.
    fn last_set(&self, name: &str) -> Option<&'a Json> {
        self.all(name)
            .filter(|value| !matches!(value, Json::Plain(Value::Null)))
            .last()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a Json> {
        let entries = self.object.0.iter();
        entries.filter_map(move |(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }

    pub(super) fn boolean(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.optional_boolean(name)?.unwrap_or(default))
    }

    /// True, false, or not set.
    pub(super) fn optional_boolean(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        match self.last_set(name) {
            None => Ok(None),
            Some(Json::Plain(Value::Bool(value))) => Ok(Some(*value)),
            Some(other) => Err(self.wrong_type(name, other, "true or false, without quotes")),
        }
    }

    /// An integer in `range`; `right` says which those are.
    pub(super) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<u64>,
        right: &'static str,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.last_set(name) else {
            return Ok(None);
        };
        match value {
            Json::Plain(Value::Number(number)) => match number.as_u64() {
                Some(integer) if range.contains(&integer) => Ok(Some(integer)),
                _ if number.is_f64() => Err(self.wrong_type(name, value, right)),
                _ => Err(self.invalid(name, value.to_string(), "out of range", right)),
            },
            Json::Plain(_) | Json::Object(_) => Err(self.wrong_type(name, value, right)),
        }
    }

    pub(super) fn string(
        &self,
        name: &str,
        right: &'static str,
    ) -> Result<Option<&'a str>, ConfigError> {
        match self.last_set(name) {
            None => Ok(None),
            Some(Json::Plain(Value::String(text))) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(name, other, right)),
        }
    }

    /// A string where `null` is no better than a number.
    pub(super) fn string_not_null(
        &self,
        name: &str,
        right: &'static str,
    ) -> Result<Option<&'a str>, ConfigError> {
        match self.last(name) {
            Some(null @ Json::Plain(Value::Null)) => Err(self.wrong_type(name, null, right)),
            _ => self.string(name, right),
        }
    }

    pub(super) fn invalid(
        &self,
        name: &str,
        value: String,
        message: impl Into<String>,
        right: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Invalid {
            key: self.key(name),
            value,
            message: message.into(),
            right: right.into(),
        }
    }

    pub(super) fn wrong_type(&self, name: &str, value: &Json, right: &'static str) -> ConfigError {
        ConfigError::WrongType {
            key: self.key(name),
            value: value.to_string(),
            right,
        }
    }

    /// What to say about keys that none of `known` is: most are slips of the pen.
    pub(super) fn unknown(&self, known: &[&str]) -> Vec<String> {
        let keys = self.object.0.iter().map(|(key, _)| key);
        keys.filter(|key| !known.iter().any(|name| name.eq_ignore_ascii_case(key)))
            .map(|key| format!("{}: unknown key, ignored", self.key(&shorten(key))))
            .collect()
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

impl Object {
    /// Keys as written and values, in the order of the text.
    pub(crate) fn into_entries(self) -> Vec<(String, Json)> {
        self.0
    }
}

impl Json {
    /// The value without the order; of several equal keys the last counts. Of the `known` keys
    /// of an object at the top, those count as equal that differ in ASCII case.
    pub(crate) fn into_value(self, known: &[&str]) -> Value {
        let object = match self {
            Self::Plain(value) => return value,
            Self::Object(object) => object,
        };
        let mut map = Map::new();
        for (key, value) in object.0 {
            let name = known.iter().find(|name| name.eq_ignore_ascii_case(&key));
            let name = name.map_or(key, |&name| name.to_owned());
            map.insert(name, value.into_value(&[]));
        }
        Value::Object(map)
    }
}

impl fmt::Display for Json {
    /// As JSON, shortened: for errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(_) => f.write_str("an object"),
            Self::Plain(value) => f.write_str(&shorten(&value.to_string())),
        }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Json::deserialize(deserializer)? {
            Json::Object(object) => Ok(object),
            other @ Json::Plain(_) => Err(D::Error::custom(format!("{other} is not an object"))),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Plain(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Json, A::Error> {
        Value::deserialize(SeqAccessDeserializer::new(seq)).map(Json::Plain)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Json::Object(Object(entries)))
    }
}
