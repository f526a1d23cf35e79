//! The plugin's part of a network config: `{"type": "flannel", "delegate": {…}}`.

use std::path::PathBuf;

use serde_json::{Map, Value};
use thiserror::Error;

/// A JSON object; its keys are sorted when it is written, as Go writes them.
pub(crate) type Object = Map<String, Value>;

const SUBNET_FILE: &str = "/run/flannel/subnet.env";
const DATA_DIR: &str = "/var/lib/cni/flannel";

/// What the config says. What it says beyond that is another plugin's, and is left out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetConf {
    /// The version of the specification; empty if none is named.
    pub(crate) version: String,
    /// The network's name.
    pub(crate) name: String,
    /// Where the daemon writes the node's subnet.
    pub(crate) subnet_file: PathBuf,
    /// Where what was handed to delegates is kept, a file for each container.
    pub(crate) data_dir: PathBuf,
    /// What the delegate's config begins with.
    pub(crate) delegate: Object,
    /// What its IPAM's config begins with.
    pub(crate) ipam: Object,
    /// What the runtime says about this pod (port mappings, bandwidth).
    pub(crate) runtime_config: Option<Object>,
    /// ADD's result, for CHECK and DEL.
    pub(crate) prev_result: Option<Value>,
    /// What it says about Twill, beside what flannel's plugin knows: `instance`, `bpffs`, and
    /// `confDir`, where the runtime's configs are.
    pub(crate) twill: Option<Value>,
    /// Attachments that live, for GC.
    pub(crate) valid_attachments: Option<Value>,
}

/// Why a config is none.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// It is no JSON.
    #[error("failed to load netconf: {0}")]
    NotJson(#[from] serde_json::Error),
    /// It is no object.
    #[error("failed to load netconf: it is {0}, not an object")]
    NotAnObject(&'static str),
    /// A value is of another kind.
    #[error("failed to load netconf: {key:?} is {found}, not {wanted}")]
    Kind {
        /// Its key.
        key: &'static str,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
}

impl NetConf {
    /// Reads what the runtime hands over.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let mut value: Value = serde_json::from_slice(text)?;
        let Some(object) = value.as_object_mut() else {
            return Err(ConfigError::NotAnObject(kind(&value)));
        };
        let path = |text: String, default: &str| {
            PathBuf::from(if text.is_empty() { default } else { &text })
        };
        Ok(Self {
            version: string(object, "cniVersion")?,
            name: string(object, "name")?,
            subnet_file: path(string(object, "subnetFile")?, SUBNET_FILE),
            data_dir: path(string(object, "dataDir")?, DATA_DIR),
            delegate: dictionary(object, "delegate")?.unwrap_or_default(),
            ipam: dictionary(object, "ipam")?.unwrap_or_default(),
            runtime_config: dictionary(object, "runtimeConfig")?,
            prev_result: take(object, "prevResult"),
            twill: take(object, "twill"),
            valid_attachments: take(object, "cni.dev/valid-attachments"),
        })
    }
}

/// A value by its key: to the letter, else as Go's decoder takes it, in any case. `null` is
/// nothing.
fn take(object: &mut Object, key: &str) -> Option<Value> {
    let name = if object.contains_key(key) {
        key.to_owned()
    } else {
        let alike = |name: &&String| name.eq_ignore_ascii_case(key);
        object.keys().find(alike)?.clone()
    };
    object.remove(&name).filter(|value| !value.is_null())
}

fn string(object: &mut Object, key: &'static str) -> Result<String, ConfigError> {
    match take(object, key) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(ConfigError::Kind {
            key,
            found: kind(&other),
            wanted: "a string",
        }),
    }
}

fn dictionary(object: &mut Object, key: &'static str) -> Result<Option<Object>, ConfigError> {
    match take(object, key) {
        None => Ok(None),
        Some(Value::Object(value)) => Ok(Some(value)),
        Some(other) => Err(ConfigError::Kind {
            key,
            found: kind(&other),
            wanted: "an object",
        }),
    }
}

/// What a value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannels_own_config_is_read() {
        let text = br#"{"cniVersion":"0.3.1","name":"cbr0","type":"flannel",
            "delegate":{"hairpinMode":true,"isDefaultGateway":true},"dns":{}}"#;
        let config = NetConf::parse(text).unwrap();
        assert_eq!(
            (config.version.as_str(), config.name.as_str()),
            ("0.3.1", "cbr0")
        );
        assert_eq!(config.subnet_file, PathBuf::from(SUBNET_FILE));
        assert_eq!(config.data_dir, PathBuf::from(DATA_DIR));
        assert_eq!(config.delegate.len(), 2);
        assert!(config.ipam.is_empty() && config.runtime_config.is_none());
    }

    #[test]
    fn keys_are_taken_in_any_case_and_to_the_letter_first() {
        let config = NetConf::parse(br#"{"NAME":"a","name":"b","SubnetFile":"/x"}"#).unwrap();
        assert_eq!(config.name, "b");
        assert_eq!(config.subnet_file, PathBuf::from("/x"));
    }

    #[test]
    fn what_is_of_another_kind_is_named() {
        for (text, words) in [
            ("", "EOF"),
            ("[]", "it is an array"),
            (
                r#"{"delegate": 1}"#,
                "\"delegate\" is a number, not an object",
            ),
            (r#"{"name": {}}"#, "\"name\" is an object, not a string"),
            (r#"{"runtimeConfig": "x"}"#, "\"runtimeConfig\" is a string"),
        ] {
            let error = NetConf::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("failed to load netconf: "), "{error}");
            assert!(error.contains(words), "{error}");
        }
    }
}
