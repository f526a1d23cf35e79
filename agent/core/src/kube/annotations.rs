//! The names of flannel's annotations (flannel 0.28.9, `pkg/subnet/kube/annotations.go`).

use thiserror::Error;

/// What is in an annotation of flannel's.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Annotation {
    /// `"true"` on each Node that is a peer.
    Manager,
    /// The backend's name.
    BackendType,
    /// The backend's data for IPv4, as JSON.
    BackendData,
    /// The same for IPv6.
    BackendV6Data,
    /// The underlay address.
    PublicIp,
    /// The same for IPv6.
    PublicIpv6,
    /// Written by people: published instead of the address that was found.
    PublicIpOverwrite,
    /// The same for IPv6.
    PublicIpv6Overwrite,
    /// Written by people: stands for `--public-ip`.
    NodePublicIp,
    /// Written by people: stands for `--public-ipv6`.
    NodePublicIpv6,
}

impl Annotation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Manager,
        Self::BackendType,
        Self::BackendData,
        Self::BackendV6Data,
        Self::PublicIp,
        Self::PublicIpv6,
        Self::PublicIpOverwrite,
        Self::PublicIpv6Overwrite,
        Self::NodePublicIp,
        Self::NodePublicIpv6,
    ];

    /// Its name behind the prefix.
    fn suffix(self) -> &'static str {
        match self {
            Self::Manager => "kube-subnet-manager",
            Self::BackendType => "backend-type",
            Self::BackendData => "backend-data",
            Self::BackendV6Data => "backend-v6-data",
            Self::PublicIp => "public-ip",
            Self::PublicIpv6 => "public-ipv6",
            Self::PublicIpOverwrite => "public-ip-overwrite",
            Self::PublicIpv6Overwrite => "public-ipv6-overwrite",
            Self::NodePublicIp => "node-public-ip",
            Self::NodePublicIpv6 => "node-public-ipv6",
        }
    }
}

/// The names, all behind one prefix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Annotations {
    prefix: Box<str>,
}

/// `--kube-annotation-prefix` that cannot be: flannel's words, and what would be right.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum PrefixError {
    /// More than one slash.
    #[error(
        "subnet/kube: prefix can contain at most single slash \
         (--kube-annotation-prefix is {prefix:?}; write flannel.alpha.coreos.com)"
    )]
    Slashes {
        /// The prefix, shortened.
        prefix: String,
    },
    /// No domain, or something else than letters and digits.
    #[error(
        "subnet/kube: prefix must be in a format: fqdn/[0-9a-z-_]* \
         (--kube-annotation-prefix is {prefix:?}; write flannel.alpha.coreos.com)"
    )]
    Format {
        /// The prefix, shortened.
        prefix: String,
    },
}

impl Annotations {
    /// The names that begin with this prefix, which flannel completes: `org.com` to `org.com/`,
    /// `org.com/net` to `org.com/net-`.
    pub fn new(prefix: &str) -> Result<Self, PrefixError> {
        let shown = || prefix.chars().take(64).collect();
        if prefix.matches('/').count() > 1 {
            return Err(PrefixError::Slashes { prefix: shown() });
        }
        let mut whole = prefix.to_owned();
        if !whole.contains('/') {
            whole.push('/');
        }
        if !whole.ends_with(['/', '-']) {
            whole.push('-');
        }
        if !is_prefix(&whole) {
            return Err(PrefixError::Format { prefix: shown() });
        }
        Ok(Self {
            prefix: whole.into(),
        })
    }

    /// The whole name.
    pub fn name(&self, annotation: Annotation) -> String {
        format!("{}{}", self.prefix, annotation.suffix())
    }

    /// Which annotation has this name, if it is one of these.
    pub fn find(&self, name: &str) -> Option<Annotation> {
        let suffix = name.strip_prefix(&*self.prefix)?;
        let mut all = Annotation::ALL.into_iter();
        all.find(|annotation| annotation.suffix() == suffix)
    }
}

/// Whether it ends with `(?:[a-z0-9_-]+\.)+[a-z0-9_-]+/(?:[a-z0-9_-]+-)?`, which is all that
/// flannel looks at.
fn is_prefix(whole: &str) -> bool {
    let word = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    let Some((domain, rest)) = whole.split_once('/') else {
        return false;
    };
    let Some((before, last)) = domain.rsplit_once('.') else {
        return false;
    };
    let rest_fits = rest.is_empty() || (rest.len() > 1 && rest.bytes().all(word));
    rest_fits
        && !last.is_empty()
        && last.bytes().all(word)
        && before.bytes().last().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_completed_as_flannel_does() {
        for (prefix, name) in [
            (
                "flannel.alpha.coreos.com",
                Some("flannel.alpha.coreos.com/backend-type"),
            ),
            // `Test_newAnnotations` of flannel.
            ("org.com", Some("org.com/backend-type")),
            ("org.com/", Some("org.com/backend-type")),
            ("org.com/9", Some("org.com/9-backend-type")),
            ("org.com/9-", Some("org.com/9-backend-type")),
            ("org.com/net_work-", Some("org.com/net_work-backend-type")),
            ("a_b.c/d", Some("a_b.c/d-backend-type")),
            // Only the end is looked at.
            ("Org.example.com", Some("Org.example.com/backend-type")),
            ("org", None),
            ("org/prefix", None),
            ("org.com/a/b", None),
            ("org.com//", None),
            ("org.COM", None),
            ("org.com/Prefix", None),
            ("org.com/-", None),
            (".com", None),
            ("org.", None),
            ("", None),
            ("/", None),
            ("org.com/ä", None),
        ] {
            let read = Annotations::new(prefix);
            let read = read.map(|names| names.name(Annotation::BackendType));
            assert_eq!(read.as_deref().ok(), name, "{prefix:?}");
            if let Err(error) = read {
                assert!(
                    error.to_string().contains("flannel.alpha.coreos.com"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn each_name_is_found_again_and_no_other() {
        let names = Annotations::new("org.com/x").unwrap();
        for annotation in Annotation::ALL {
            assert_eq!(names.find(&names.name(annotation)), Some(annotation));
        }
        for name in [
            "backend-type",
            "org.com/backend-type",
            "org.com/x-",
            "org.com/x-other",
            "",
        ] {
            assert_eq!(names.find(name), None, "{name}");
        }
    }
}
