//! What the verifier had to go through, and what came of it.

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use aya::{EbpfLoader, VerifierLogLevel};
use serde::{Deserialize, Serialize};

use super::{Object, Plan};

/// A program in the kernel's eyes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Verified {
    /// The object that it is of.
    pub object: String,
    /// Its name.
    pub program: String,
    /// Instructions that the verifier processed, every path counted.
    pub processed: u32,
    /// Bytes after translation by the kernel.
    pub translated_bytes: Option<u32>,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

/// Every TC program of every object, with the maps as large as they come.
pub(super) fn instructions(plan: &Plan) -> Result<Vec<Verified>> {
    let mut all = Vec::new();
    for object in &plan.objects {
        all.append(&mut of(object)?);
    }
    Ok(all)
}

fn of(object: &Object) -> Result<Vec<Verified>> {
    let mut loader = EbpfLoader::new();
    let mut ebpf = loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(&object.bytes)
        .context("load the object")?;
    let mut found = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let Ok(program) = <&mut SchedClassifier>::try_from(program) else {
            continue;
        };
        program.load().with_context(|| format!("load {name}"))?;
        let info = program.info().with_context(|| format!("look at {name}"))?;
        found.push(Verified {
            object: object.name.clone(),
            program: name.to_owned(),
            processed: info
                .verified_instruction_count()
                .context("the kernel tells no instruction count: it takes 5.16 or later")?,
            translated_bytes: info.size_translated(),
            jited_bytes: info.size_jitted(),
        });
    }
    found.sort_by(|left, right| left.program.cmp(&right.program));
    Ok(found)
}
