//! What cargo says it built: paths are asked for, not guessed.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::process;

/// The executables of one build.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Artifacts(Vec<Artifact>);

#[derive(Debug, Eq, PartialEq)]
struct Artifact {
    name: String,
    test: bool,
    file: PathBuf,
}

impl Artifacts {
    /// Runs `command`, a `cargo build` or `cargo test --no-run`.
    pub(crate) fn build(command: &mut Command) -> Result<Self> {
        // Diagnostics still reach the person who waits, as cargo would print them.
        command.arg("--message-format=json-render-diagnostics");
        Self::parse(&process::stdout(command)?)
    }

    /// Builds a test target of a package and gives its binary. It is started by whoever asks, and
    /// not by cargo, so that the variables of the tests do not look to cargo like a reason to
    /// build again.
    pub(crate) fn of_tests(package: &str, target: &str) -> Result<PathBuf> {
        let mut command = process::cargo();
        command.args(["test", "--package", package, "--test", target, "--no-run"]);
        Self::build(&mut command)?.test(target)
    }

    fn parse(messages: &str) -> Result<Self> {
        let mut artifacts = Vec::new();
        for line in messages.lines() {
            let message: Message =
                serde_json::from_str(line).with_context(|| format!("cargo printed {line:?}"))?;
            if let Message {
                target: Some(target),
                profile: Some(profile),
                executable: Some(file),
            } = message
            {
                artifacts.push(Artifact {
                    name: target.name,
                    test: profile.test,
                    file,
                });
            }
        }
        Ok(Self(artifacts))
    }

    /// The program `name`.
    pub(crate) fn binary(&self, name: &str) -> Result<PathBuf> {
        self.get(name, false)
    }

    /// The test binary of the target `name`.
    pub(crate) fn test(&self, name: &str) -> Result<PathBuf> {
        self.get(name, true)
    }

    fn get(&self, name: &str, test: bool) -> Result<PathBuf> {
        let found = self
            .0
            .iter()
            .find(|artifact| artifact.name == name && artifact.test == test);
        match found {
            Some(artifact) => Ok(artifact.file.clone()),
            None => bail!(
                "cargo built no {} named {name}",
                if test { "test" } else { "program" }
            ),
        }
    }
}

/// A message of `--message-format=json`, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    profile: Option<TargetProfile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct TargetProfile {
    test: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"{"reason":"build-script-executed","package_id":"x","cfgs":[]}
{"reason":"compiler-artifact","target":{"name":"twill_agent"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"name":"twilld"},"profile":{"test":false},"executable":"/t/debug/twilld"}
{"reason":"compiler-artifact","target":{"name":"netns"},"profile":{"test":true},"executable":"/t/debug/deps/netns-1"}
{"reason":"build-finished","success":true}
"#;

    #[test]
    fn programs_and_tests_are_told_apart() {
        let artifacts = Artifacts::parse(MESSAGES).unwrap();
        assert_eq!(
            artifacts.binary("twilld").unwrap(),
            PathBuf::from("/t/debug/twilld")
        );
        assert_eq!(
            artifacts.test("netns").unwrap(),
            PathBuf::from("/t/debug/deps/netns-1")
        );
        let error = artifacts.test("twilld").unwrap_err().to_string();
        assert_eq!(error, "cargo built no test named twilld");
        assert!(artifacts.binary("twill_agent").is_err());
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        assert!(Artifacts::parse("warning: x").is_err());
    }
}
