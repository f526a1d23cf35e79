//! Running a test binary and passing on what it prints.

use std::fs;
use std::io::{BufRead as _, BufReader, pipe};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::message::Message;
use crate::plan::{Plan, Tier};
use crate::reporter::Reporter;

/// Tells tests the file for what they measure.
const TABLE: &str = "TWILL_TABLE";

/// Runs one tier to its end; a test that fails is not this function's error.
pub(crate) fn run(tier: &Tier, plan: &Plan, reporter: &mut Reporter) -> Result<()> {
    reporter.say(&Message::TierBegin {
        tier: tier.name.clone(),
    })?;
    let table = PathBuf::from(format!("/tmp/{}-table.tsv", tier.name));
    // One pipe for both outputs, so that lines stay in order.
    let (output, input) = pipe().context("make a pipe")?;
    let mut child = Command::new(&tier.binary)
        .args(&tier.arguments)
        .envs(&plan.environment)
        .env(TABLE, &table)
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .stdout(input.try_clone().context("copy the pipe's end")?)
        .stderr(input)
        .spawn()
        .with_context(|| format!("start {}", tier.binary.display()))?;
    let mut bytes = Vec::new();
    let mut output = BufReader::new(output);
    // By bytes: a test may print anything.
    while output
        .read_until(b'\n', &mut bytes)
        .context("read the output")?
        > 0
    {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        reporter.say(&Message::Output { line })?;
        bytes.clear();
    }
    let status = child.wait().context("wait for the test binary")?;
    if table.exists() {
        let text = fs::read_to_string(&table).with_context(|| table.display().to_string())?;
        for line in text.lines() {
            let line = line.to_owned();
            reporter.say(&Message::Measured { line })?;
        }
    }
    reporter.say(&Message::TierEnd {
        tier: tier.name.clone(),
        success: status.success(),
    })
}
