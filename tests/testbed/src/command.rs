//! Running a program to its end, with an error that tells everything.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// The command that `words` spell.
pub fn command<S: AsRef<OsStr>>(words: &[S]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    apart(&mut command);
    Ok(command)
}

/// Puts the program into a process group of its own, out of Ctrl-C's reach: what this
/// process has begun it ends itself, clean-up included.
pub fn apart(command: &mut Command) {
    command.process_group(0);
}

/// Runs the command to its end and gives its standard output; any exit status but 0 is
/// an error with what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("start {}", spelled(command)))?;
    checked(command, &output)
}

/// Standard output of a finished command, or the error that it is.
pub fn checked(command: &Command, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}\n{}{}",
            spelled(command),
            output.status,
            stdout,
            stderr
        );
    }
    Ok(stdout.into_owned())
}

/// The command as a person would type it.
pub fn spelled(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_given_and_failure_is_told() {
        assert_eq!(run(Command::new("echo").arg("so")).unwrap(), "so\n");
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.contains("why"), "{text}");
    }

    #[test]
    fn no_words_are_no_command() {
        assert!(command::<&str>(&[]).is_err());
    }
}
