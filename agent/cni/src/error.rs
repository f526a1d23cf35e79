//! Errors as the CNI specification has them: a code, a sentence and details, as JSON on standard
//! output.

use serde::{Deserialize, Serialize};

/// What kind of error it is (CNI specification 1.1, "Well-known Error Codes").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Code {
    /// The config's version is not one of ours.
    IncompatibleVersion,
    /// The container has no attachment here.
    UnknownContainer,
    /// A `CNI_…` variable is missing or wrong.
    Environment,
    /// Reading or writing failed.
    Io,
    /// Something is no JSON.
    Decoding,
    /// The network config says what it must not.
    InvalidConfig,
    /// The pod's network namespace is not one.
    InvalidNetns,
    /// `STATUS`: an ADD would fail now.
    NotAvailable,
    /// Anything else, as the Go library numbers it.
    Internal,
}

impl Code {
    fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnknownContainer => 3,
            Self::Environment => 4,
            Self::Io => 5,
            Self::Decoding => 6,
            Self::InvalidConfig => 7,
            Self::InvalidNetns => 8,
            Self::NotAvailable => 50,
            Self::Internal => 999,
        }
    }
}

/// An error of this plugin, or of the delegate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { "; " })]
pub(crate) struct PluginError {
    code: u32,
    msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    details: String,
}

impl PluginError {
    /// An error without details.
    pub(crate) fn new(code: Code, msg: impl Into<String>) -> Self {
        Self {
            code: code.number(),
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// What a delegate printed when it failed, if it is an error at all.
    pub(crate) fn from_delegate(output: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(output)
    }

    /// The same with details.
    pub(crate) fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same, told by the one who asked: `context: error; details`, with the code for
    /// anything else, as Go's `%w` around it has it.
    pub(crate) fn within(self, context: &str) -> Self {
        Self::new(Code::Internal, format!("{context}: {self}"))
    }

    /// Whether a delegate says that it does not know the command: plugins before CNI 1.1 know
    /// neither GC nor STATUS.
    pub(crate) fn is_unknown_command(&self) -> bool {
        self.code == Code::Environment.number() || self.code == Code::IncompatibleVersion.number()
    }

    /// What is printed.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

impl From<crate::config::ConfigError> for PluginError {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::new(Code::Internal, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_printed_as_the_specification_has_it() {
        let error = PluginError::new(Code::InvalidConfig, "no \"name\"").with_details("line 1");
        let printed: serde_json::Value = serde_json::from_slice(&error.to_json()).unwrap();
        let expected = serde_json::json!({"code": 7, "msg": "no \"name\"", "details": "line 1"});
        assert_eq!(printed, expected);
    }

    #[test]
    fn a_delegates_error_keeps_its_words_within_ours() {
        let theirs = br#"{"code": 11, "msg": "try again", "details": "busy"}"#;
        let error = PluginError::from_delegate(theirs).unwrap();
        let ours = error.within("failed to delegate add");
        let expected = "failed to delegate add: try again; busy";
        assert_eq!(ours, PluginError::new(Code::Internal, expected));
    }

    #[test]
    fn what_is_no_error_is_none() {
        for output in [
            "",
            "no JSON",
            "[]",
            r#"{"ips": []}"#,
            r#"{"code": "x", "msg": ""}"#,
        ] {
            assert!(
                PluginError::from_delegate(output.as_bytes()).is_err(),
                "{output}"
            );
        }
    }
}
