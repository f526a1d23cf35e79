//! Versions of the CNI specification.

use crate::error::{Code, PluginError};

/// Every version that configs may name, oldest first (containernetworking/cni 1.3).
pub(crate) const SUPPORTED: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// What a config without a version means (CNI specification 1.1, section 1).
const UNNAMED: &str = "0.1.0";

/// A version of the list above, by its place.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Version(usize);

impl Version {
    /// The first with CHECK.
    pub(crate) const WITH_CHECK: Self = Self(4);
    /// The first with GC and STATUS.
    pub(crate) const WITH_GC: Self = Self(6);

    /// The version that a config names; an empty text is the oldest.
    pub(crate) fn parse(text: &str) -> Result<Self, PluginError> {
        let named = if text.is_empty() { UNNAMED } else { text };
        let place = SUPPORTED.iter().position(|version| *version == named);
        place.map(Self).ok_or_else(|| {
            PluginError::new(Code::IncompatibleVersion, "incompatible CNI versions").with_details(
                format!("config is {named:?}, plugin supports {SUPPORTED:?}"),
            )
        })
    }
}

/// The answer to VERSION.
pub(crate) fn reply() -> Vec<u8> {
    let newest = SUPPORTED.last().copied().unwrap_or_default();
    let reply = serde_json::json!({"cniVersion": newest, "supportedVersions": SUPPORTED});
    let mut text = reply.to_string().into_bytes();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_begins_with_the_version_that_brought_it() {
        assert_eq!(Version::parse("0.4.0").unwrap(), Version::WITH_CHECK);
        assert_eq!(Version::parse("1.1.0").unwrap(), Version::WITH_GC);
        assert!(Version::parse("").unwrap() < Version::WITH_CHECK);
    }

    #[test]
    fn a_version_that_there_is_not_is_named() {
        for text in ["0.5.0", "1.2.0", "v1.0.0", "1.0"] {
            let error = Version::parse(text).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
