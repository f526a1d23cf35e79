//! Figures, for the lines that the run prints at its end.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, Result};

/// Names the file that they are added to.
const VARIABLE: &str = "TWILL_TABLE";

/// Adds a figure: what was measured, and what came of it.
pub(crate) fn add(what: &str, value: &str) -> Result<()> {
    let path = std::env::var_os(VARIABLE).with_context(|| format!("{VARIABLE} is not set"))?;
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    file.write_all(format!("{what}\t{value}\n").as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

/// The middle one of the ratios of two series, round by round.
pub(crate) fn median_ratio(of: &[f64], to: &[f64]) -> f64 {
    let mut ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
}
