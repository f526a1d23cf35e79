//! Every program of the object, loaded in its largest configuration.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use crate::machine;
use crate::message::Message;
use crate::reporter::Reporter;

/// How much of a verifier's log is shown, lines from its end.
const LOG_LINES: usize = 60;
/// Where `bpftool` pins what it loads, for a moment.
const PINS: &str = "/sys/fs/bpf/verifier";
const OBJECT: &str = "/tmp/verifier.o";

/// Loads the programs and says what came of each.
pub(crate) fn load_all(object: &[u8], reporter: &mut Reporter) -> Result<()> {
    let mut ebpf = largest(object)?;
    let mut counted: Option<BTreeMap<String, u32>> = None;
    for (name, program) in ebpf.programs_mut() {
        let (instructions, rejected) = match load(program) {
            Ok(Some(count)) => (Some(count), None),
            Ok(None) => {
                let counts = match &counted {
                    Some(counts) => counts,
                    None => counted.insert(counts_by_bpftool(object)?),
                };
                (counts.get(name).copied(), None)
            }
            Err(ProgramError::LoadError {
                io_error,
                verifier_log,
            }) => (
                None,
                Some(format!("{io_error}\n{}", end_of(&verifier_log.to_string()))),
            ),
            Err(error) => (None, Some(error.to_string())),
        };
        reporter.say(&Message::Program {
            name: name.to_owned(),
            instructions,
            rejected,
        })?;
    }
    Ok(())
}

/// The object with all maps as large as it says.
pub(crate) fn largest(object: &[u8]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    let loader = loader.verifier_log_level(VerifierLogLevel::DEBUG | VerifierLogLevel::STATS);
    loader
        .load(object)
        .context("create the maps in their full size")
}

/// Loads a program; the verifier's count where the kernel keeps it (from 5.16 on).
fn load(program: &mut Program) -> Result<Option<u32>, ProgramError> {
    let info = if let Program::SchedClassifier(program) = program {
        program.load()?;
        program.info()?
    } else if let Program::Xdp(program) = program {
        program.load()?;
        program.info()?
    } else {
        return Err(ProgramError::UnexpectedProgramType);
    };
    Ok(info.verified_instruction_count())
}

/// The counts by the verifier's own log, which `bpftool` shows. It tells nothing more of a
/// program after one that is rejected, so a count may be missing.
fn counts_by_bpftool(object: &[u8]) -> Result<BTreeMap<String, u32>> {
    fs::write(OBJECT, object).with_context(|| format!("write {OBJECT}"))?;
    let log = machine::printed(&["bpftool", "--debug", "prog", "loadall", OBJECT, PINS])?;
    // It pinned nothing where the first program is rejected.
    if Path::new(PINS).exists() {
        fs::remove_dir_all(PINS).with_context(|| format!("remove {PINS}"))?;
    }
    Ok(counts_in(&log))
}

/// Reads `libbpf: prog 'NAME': -- BEGIN PROG LOAD LOG --` and `processed N insns`.
fn counts_in(log: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    let mut name = None;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("prog '")
            && let Some((found, rest)) = rest.split_once('\'')
            && rest.contains("BEGIN PROG LOAD LOG")
        {
            name = Some(found);
        }
        let count = line
            .strip_prefix("processed ")
            .and_then(|rest| rest.split(' ').next()?.parse().ok());
        if let (Some(name), Some(count)) = (name, count) {
            counts.insert(name.to_owned(), count);
        }
    }
    counts
}

fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_belong_to_the_program_whose_log_they_end() {
        let log = "libbpf: prog 'to_pod': -- BEGIN PROG LOAD LOG --\n; a\n0: (bf) r6 = r1\n\
            processed 1465 insns (limit 1000000) max_states_per_insn 1\n\
            -- END PROG LOAD LOG --\nlibbpf: prog 'from_pod': relo #0\n\
            libbpf: prog 'from_pod': -- BEGIN PROG LOAD LOG --\nprocessed 9 insns (limit 1000000)\n";
        let expected = [("from_pod".to_owned(), 9), ("to_pod".to_owned(), 1465)];
        assert_eq!(counts_in(log), BTreeMap::from(expected));
        assert_eq!(counts_in("processed 9 insns"), BTreeMap::new());
    }

    #[test]
    fn the_end_of_a_long_log_is_kept() {
        let log: Vec<String> = (0..100).map(|line| line.to_string()).collect();
        let end = end_of(&log.join("\n"));
        assert!(end.starts_with("40\n") && end.ends_with("\n99"), "{end}");
        assert_eq!(end_of("one"), "one");
    }
}
