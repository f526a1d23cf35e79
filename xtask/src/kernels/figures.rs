//! What the verifier pays for each program, by kernel: `bench/results/verifier-<series>.json`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::report::Report;
use super::table::BLESS;
use crate::places;

/// Processed instructions by program.
type Figures = BTreeMap<String, u32>;

/// What differs from the figures that are kept; with [`BLESS`] set, keeps these.
///
/// Growth is shown and is no failure: whoever changes a program looks at it.
pub(super) fn compare(series: &str, report: &Report) -> Result<Vec<String>> {
    let found: Figures = report
        .programs
        .iter()
        .filter_map(|(name, answer)| Some((name.clone(), answer.as_ref().ok().copied().flatten()?)))
        .collect();
    let file = file(series);
    if env::var_os(BLESS).is_some() {
        let mut text = serde_json::to_string_pretty(&found).context("write the figures")?;
        text.push('\n');
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    let text = fs::read_to_string(&file)
        .with_context(|| format!("read {}; {BLESS}=1 writes it", file.display()))?;
    let kept =
        serde_json::from_str(&text).with_context(|| format!("understand {}", file.display()))?;
    Ok(differences(&kept, &found))
}

fn file(series: &str) -> PathBuf {
    places::root().join(format!("bench/results/verifier-{series}.json"))
}

/// One line for each program that has grown by more than a tenth, is new, or is gone.
fn differences(kept: &Figures, found: &Figures) -> Vec<String> {
    let changed = found
        .iter()
        .filter_map(|(name, &now)| match kept.get(name) {
            None => Some(format!("{name}: {now} instructions, not kept yet")),
            Some(&before) if u64::from(now) * 10 > u64::from(before) * 11 => Some(format!(
                "{name}: {now} instructions, {before} before: {} % more",
                (u64::from(now) * 100)
                    .div_ceil(u64::from(before).max(1))
                    .saturating_sub(100)
            )),
            Some(_) => None,
        });
    let gone = kept.keys().filter(|name| !found.contains_key(*name));
    changed
        .chain(gone.map(|name| format!("{name}: no figure any more")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(pairs: &[(&str, u32)]) -> Figures {
        pairs
            .iter()
            .map(|&(name, count)| (name.to_owned(), count))
            .collect()
    }

    #[test]
    fn growth_over_a_tenth_is_shown() {
        let kept = figures(&[("a", 1000), ("b", 1000), ("c", 1000), ("gone", 1)]);
        let found = figures(&[("a", 1100), ("b", 1101), ("c", 10), ("new", 5)]);
        assert_eq!(
            differences(&kept, &found),
            [
                "b: 1101 instructions, 1000 before: 11 % more",
                "new: 5 instructions, not kept yet",
                "gone: no figure any more",
            ]
        );
        assert!(differences(&kept, &kept).is_empty());
        assert_eq!(
            differences(&figures(&[("z", 0)]), &figures(&[("z", 1)])).len(),
            1
        );
    }
}
