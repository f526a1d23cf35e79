//! Flannel's command line, brought into the form that clap reads.
//!
//! Flannel's flags are read by Go's `flag` package: one dash or two, `-flag=value` or
//! `-flag value`, truth without a value or as `-flag=false`, the last of several wins, and the
//! first word that is no flag ends the flags. What is not on the command line may stand in the
//! environment as `FLANNELD_FLAG` (flannel 0.28.9, `main.go` and `flagutil.SetFlagsFromEnv`).

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command};

/// Flags that flannel takes as text and looks into later: a bad value of the environment ends it
/// there, and is not left out.
const LOOKED_INTO: [&str; 3] = ["public-ip", "iface-regex", "iface-can-reach"];

/// Lists of flannel's in which an entry without text has a meaning.
const LISTS: [&str; 2] = ["iface", "iface-regex"];

/// What comes before the name of a flag in the environment.
const PREFIX: &str = "FLANNELD_";

/// A command line for clap, and what was left out of it.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Line {
    /// The words after the program's name.
    pub(super) words: Vec<OsString>,
    /// What of the environment makes a start impossible, with its value.
    pub(super) refused: Option<String>,
    /// What was ignored, each a sentence for the log, without any value: it may be a secret.
    pub(super) ignored: Vec<String>,
}

/// Brings words and environment into clap's form. `command` must be built.
pub(super) fn normalise(
    command: &Command,
    words: &[OsString],
    environment: &[(OsString, OsString)],
) -> Line {
    let mut line = Line::default();
    let mut set = HashSet::new();
    if read(command, words, &mut line, &mut set) {
        from_environment(command, environment, &mut line, &set);
    }
    line
}

/// Reads the words; whether they are the agent's flags to the end.
fn read(command: &Command, words: &[OsString], line: &mut Line, set: &mut HashSet<String>) -> bool {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let rest = words.get(at..).unwrap_or_default();
        let Some(flag) = word.to_str().and_then(flag_name) else {
            return positional(command, at, rest, line);
        };
        at += 1;
        let (name, value) = flag;
        let Some(arg) = find(command, name) else {
            // clap says what is wrong with it.
            line.words.push(two_dashes(name, value.map(OsStr::new)));
            return false;
        };
        let value = match (value, takes(arg)) {
            (Some(value), _) => Some(OsString::from(value)),
            (None, Takes::Nothing) => None,
            (None, Takes::Truth) => Some("true".into()),
            // Whatever it is: Go takes a word with a dash for a value, too.
            (None, Takes::Value) => {
                let value = words.get(at).cloned();
                at += 1;
                value
            }
        };
        set.insert(name.to_owned());
        add(arg, name, value.as_deref(), line);
    }
    true
}

/// The name and the value of a flag; `None` if the word is none.
fn flag_name(word: &str) -> Option<(&str, Option<&str>)> {
    let name = word.strip_prefix('-')?;
    let name = name.strip_prefix('-').unwrap_or(name);
    match name.split_once('=') {
        _ if name.is_empty() => None,
        Some((name, value)) => Some((name, Some(value))),
        None => Some((name, None)),
    }
}

/// A word that is no flag. A subcommand has a command line of clap's own; anything else ends
/// flannel's flags.
fn positional(command: &Command, at: usize, rest: &[OsString], line: &mut Line) -> bool {
    let is_subcommand = rest.first().is_some_and(|word| {
        let mut subcommands = command.get_subcommands();
        subcommands.any(|subcommand| subcommand.get_name() == word)
    });
    if is_subcommand || at == 0 {
        line.words.extend(rest.iter().cloned());
        return false;
    }
    line.ignored.push(format!(
        "word {} of the command line is no flag: it and all after it ({} in all) are ignored, \
         as flanneld does; a flag that is true or false takes its value as --flag=false",
        at + 1,
        rest.len()
    ));
    true
}

enum Takes {
    Nothing,
    Truth,
    Value,
}

fn takes(arg: &Arg) -> Takes {
    match arg.get_num_args() {
        Some(range) if !range.takes_values() => Takes::Nothing,
        Some(range) if range.min_values() == 0 => Takes::Truth,
        _ => Takes::Value,
    }
}

/// A flag by the name that stands behind its dashes.
fn find<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    let mut args = command.get_arguments();
    args.find(|arg| {
        arg.get_long() == Some(name)
            || arg.get_short().is_some_and(|short| {
                let mut letters = name.chars();
                letters.next() == Some(short) && letters.next().is_none()
            })
    })
}

fn add(arg: &Arg, name: &str, value: Option<&OsStr>, line: &mut Line) {
    let long = arg.get_long().unwrap_or(name);
    // Go's zero value of text is empty: writing it is to unset the flag, but adds to a list.
    let unsets = value.is_some_and(OsStr::is_empty)
        && matches!(takes(arg), Takes::Value)
        && arg.get_default_values().is_empty();
    let adds_up = matches!(arg.get_action(), ArgAction::Append);
    if !unsets || (adds_up && LISTS.contains(&long)) {
        line.words.push(two_dashes(long, value));
    } else if !adds_up {
        let (bare, with_value) = (format!("--{long}"), format!("--{long}="));
        line.words.retain(|word| {
            *word != *bare && !word.as_encoded_bytes().starts_with(with_value.as_bytes())
        });
    }
}

fn two_dashes(name: &str, value: Option<&OsStr>) -> OsString {
    let mut word = OsString::from(format!("--{name}"));
    if let Some(value) = value {
        word.push("=");
        word.push(value);
    }
    word
}

/// Adds what the environment says of flags that the command line does not have. A value that
/// cannot be is left out, and the node starts all the same, as flannel has it.
fn from_environment(
    command: &Command,
    environment: &[(OsString, OsString)],
    line: &mut Line,
    set: &HashSet<String>,
) {
    for arg in command.get_arguments() {
        let Some(long) = arg.get_long().filter(|long| !set.contains(*long)) else {
            continue;
        };
        if matches!(takes(arg), Takes::Nothing) {
            continue;
        }
        let variable = format!("{PREFIX}{}", long.to_ascii_uppercase().replace('-', "_"));
        let found = environment.iter().find(|(name, _)| *name == *variable);
        let Some((_, value)) = found.filter(|(_, value)| !value.is_empty()) else {
            continue;
        };
        let word = two_dashes(long, Some(value));
        match accepts(command, &word) {
            Ok(()) => line.words.push(word),
            Err(why) if LOOKED_INTO.contains(&long) => {
                line.refused = Some(format!("{variable} in the environment: {why}"));
            }
            Err(why) => line.ignored.push(format!(
                "Failed to set flag FLANNELD from env: {variable}: {why}"
            )),
        }
    }
}

/// Whether clap takes this flag with this value.
fn accepts(command: &Command, word: &OsStr) -> Result<(), String> {
    let program = OsStr::new(command.get_name());
    match command.clone().try_get_matches_from([program, word]) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(first.trim_start_matches("error: ").to_owned())
        }
    }
}
