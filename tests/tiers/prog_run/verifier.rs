//! What the verifier pays for each program, in its largest configuration.
//!
//! The figures are kept in `bench/results/verifier.json` and may grow by a tenth before
//! somebody has to look; `TWILL_BLESS=1` writes them anew.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use aya::programs::{SchedClassifier, Xdp};
use aya::{EbpfLoader, VerifierLogLevel};

use super::lab::object;

/// Processed instructions by program.
type Instructions = BTreeMap<String, u32>;

fn stored_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/results/verifier.json")
}

fn loaded(bytes: &[u8]) -> Instructions {
    let mut loader = EbpfLoader::new();
    let mut ebpf = loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(bytes)
        .expect("create the maps in their full size");
    let mut instructions = Instructions::new();
    for (name, program) in ebpf.programs_mut() {
        let loaded = match <&mut SchedClassifier>::try_from(&mut *program) {
            Ok(program) => program.load(),
            Err(_) => <&mut Xdp>::try_from(&mut *program)
                .expect("TC or XDP")
                .load(),
        };
        loaded.unwrap_or_else(|error| panic!("load {name}: {error}"));
        let info = program.info().expect("information of a loaded program");
        let count = info
            .verified_instruction_count()
            .expect("a kernel from 5.16 on");
        instructions.insert(name.to_owned(), count);
    }
    instructions
}

#[test]
fn no_program_has_grown_by_more_than_a_tenth() {
    let Some(bytes) = object() else { return };
    let instructions = loaded(&bytes);
    let path = stored_path();
    if std::env::var_os("TWILL_BLESS").is_some() {
        let mut text = serde_json::to_string_pretty(&instructions).expect("numbers by name");
        text.push('\n');
        std::fs::write(&path, text)
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; TWILL_BLESS=1 writes it", path.display()));
    let stored: Instructions = serde_json::from_str(&text).expect("numbers by name");

    let names = |instructions: &Instructions| instructions.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&instructions),
        names(&stored),
        "other programs than in {}",
        path.display()
    );
    for (name, &now) in &instructions {
        let before = stored[name];
        // Past libtest's capture: the figures are worth seeing when they are in order, too.
        writeln!(
            std::io::stderr(),
            "verifier: {name} {now} instructions, {before} stored"
        )
        .expect("write to stderr");
        assert!(
            u64::from(now) * 10 <= u64::from(before) * 11,
            "{name}: the verifier processes {now} instructions, {before} before; TWILL_BLESS=1 \
             accepts it, with a line in the commit message"
        );
    }
}
