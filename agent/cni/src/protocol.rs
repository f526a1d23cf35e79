//! The `CNI_…` variables by which a runtime says what to do, and what they may hold
//! (containernetworking/cni 1.3, `pkg/skel` and `pkg/utils`).

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Code, PluginError};

/// Bytes of a link's name, the kernel's `IFNAMSIZ` without its end.
const LONGEST_LINK: usize = 15;

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Command {
    /// Attach a pod.
    Add,
    /// See whether a pod is as ADD left it.
    Check,
    /// Detach a pod.
    Del,
    /// Forget what belongs to no pod.
    Gc,
    /// Say whether an ADD could succeed.
    Status,
    /// Say which versions are spoken.
    Version,
}

impl Command {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "CHECK" => Self::Check,
            "DEL" => Self::Del,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// Its word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// Whether it is about one attachment.
    fn concerns_a_pod(self) -> bool {
        matches!(self, Self::Add | Self::Check | Self::Del)
    }
}

/// The variables as they were found. Empty ones count as missing.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// `CNI_COMMAND`.
    pub(crate) command: Option<String>,
    container: Option<String>,
    netns: Option<String>,
    link: Option<String>,
    path: Option<OsString>,
    netns_override: Option<String>,
}

/// A call whose variables are as they must be.
#[derive(Debug)]
pub(crate) struct Call {
    /// What to do.
    pub(crate) command: Command,
    /// The container's identity; safe as a file's name. Empty for GC, STATUS and VERSION.
    pub(crate) container: String,
    /// Where the pod's network namespace is. Empty where the runtime has lost it (DEL).
    pub(crate) netns: String,
    /// Whether the pod may be in our own namespace (`CNI_NETNS_OVERRIDE`).
    pub(crate) own_netns_allowed: bool,
    /// Where delegates are looked for, in this order.
    pub(crate) folders: Vec<PathBuf>,
}

impl Environment {
    /// Those of this process.
    pub(crate) fn of_process() -> Self {
        // What is no UTF-8 is wrong in each of them, and is then refused as a wrong value.
        let text = |name| {
            let value = env::var_os(name)?.to_string_lossy().into_owned();
            (!value.is_empty()).then_some(value)
        };
        Self {
            command: text("CNI_COMMAND"),
            container: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            link: text("CNI_IFNAME"),
            path: env::var_os("CNI_PATH").filter(|path| !path.is_empty()),
            netns_override: text("CNI_NETNS_OVERRIDE"),
        }
    }

    /// Checks them.
    pub(crate) fn call(&self) -> Result<Call, PluginError> {
        let word = self.command.as_deref().unwrap_or_default();
        let command = Command::parse(word).ok_or_else(|| {
            PluginError::new(Code::Environment, format!("unknown CNI_COMMAND: {word}"))
        })?;
        self.nothing_missing(command)?;
        let container = self.container.clone().unwrap_or_default();
        if command.concerns_a_pod() {
            is_container(&container)?;
            is_link(self.link.as_deref().unwrap_or_default())?;
        }
        Ok(Call {
            command,
            container,
            netns: self.netns.clone().unwrap_or_default(),
            own_netns_allowed: self
                .netns_override
                .as_deref()
                .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true")),
            folders: self.path.iter().flat_map(env::split_paths).collect(),
        })
    }

    /// What this command cannot do without.
    fn nothing_missing(&self, command: Command) -> Result<(), PluginError> {
        let pod = command.concerns_a_pod();
        let attached = matches!(command, Command::Add | Command::Check);
        let needed = [
            ("CNI_CONTAINERID", pod && self.container.is_none()),
            ("CNI_NETNS", attached && self.netns.is_none()),
            ("CNI_IFNAME", pod && self.link.is_none()),
            (
                "CNI_PATH",
                command != Command::Version && self.path.is_none(),
            ),
        ];
        let missing: Vec<_> = needed
            .iter()
            .filter_map(|(name, missing)| missing.then_some(*name))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let words = format!("required env variables [{}] missing", missing.join(","));
        Err(PluginError::new(Code::Environment, words))
    }
}

/// An identity that may become the name of a file.
pub(crate) fn is_container(text: &str) -> Result<(), PluginError> {
    if is_word(text) {
        return Ok(());
    }
    let error = PluginError::new(Code::Environment, "invalid characters in containerID");
    Err(error.with_details(format!("{text:?}")))
}

/// A network's name.
pub(crate) fn is_network(text: &str) -> Result<(), PluginError> {
    if text.is_empty() {
        return Err(PluginError::new(
            Code::InvalidConfig,
            "missing network name",
        ));
    }
    if is_word(text) {
        return Ok(());
    }
    let error = PluginError::new(
        Code::InvalidConfig,
        "invalid characters found in network name",
    );
    Err(error.with_details(format!("{text:?}")))
}

/// Letters, digits, `_`, `.` and `-`, beginning with a letter or digit.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn is_link(text: &str) -> Result<(), PluginError> {
    let wrong = if text.len() > LONGEST_LINK {
        "interface name is too long"
    } else if matches!(text, "." | "..") {
        "interface name is . or .."
    } else if text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        "interface name contains / or : or whitespace characters"
    } else {
        return Ok(());
    };
    Err(PluginError::new(Code::Environment, wrong).with_details(format!("{text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(command: &str) -> Environment {
        Environment {
            command: Some(command.to_owned()),
            container: Some("c1".to_owned()),
            netns: Some("/run/netns/c1".to_owned()),
            link: Some("eth0".to_owned()),
            path: Some("/a:/b".into()),
            netns_override: None,
        }
    }

    #[test]
    fn a_whole_call_is_taken() {
        let call = environment("ADD").call().unwrap();
        assert_eq!(
            (call.command, call.container.as_str()),
            (Command::Add, "c1")
        );
        assert_eq!(call.folders, [PathBuf::from("/a"), PathBuf::from("/b")]);
    }

    #[test]
    fn what_is_missing_is_named_at_once() {
        let error = Environment {
            command: Some("ADD".to_owned()),
            ..Environment::default()
        };
        let error = error.call().unwrap_err().to_string();
        let expected =
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_pod_may_have_lost_its_namespace_when_it_goes() {
        let mut environment = environment("DEL");
        environment.netns = None;
        assert!(environment.call().is_ok());
        environment.command = Some("CHECK".to_owned());
        assert!(environment.call().is_err());
    }

    #[test]
    fn commands_about_no_pod_need_none() {
        for command in ["GC", "STATUS", "VERSION"] {
            let environment = Environment {
                command: Some(command.to_owned()),
                path: Some("/a".into()),
                ..Environment::default()
            };
            assert!(environment.call().is_ok(), "{command}");
        }
    }

    #[test]
    fn a_container_never_names_a_file_elsewhere() {
        for text in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc/passwd",
            ".hidden",
            "a b",
            "ä",
        ] {
            assert!(is_container(text).is_err(), "{text:?}");
        }
        for text in ["a", "0f3c", "a.b-c_d", "cnitool-77383ca0"] {
            assert!(is_container(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_link_is_one_that_the_kernel_takes() {
        for text in [".", "..", "a/b", "a:1", "a b", "sixteen-letters-"] {
            assert!(is_link(text).is_err(), "{text:?}");
        }
        assert!(is_link("fifteen-letters").is_ok());
    }
}
