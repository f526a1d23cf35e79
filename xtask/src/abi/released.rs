//! Which ABI versions were released, as the changelog says.

use std::collections::BTreeSet;

/// Every number after `ABI_VERSION` below a heading other than `Unreleased`.
pub(super) fn versions(changelog: &str) -> BTreeSet<u32> {
    let mut released = false;
    let mut versions = BTreeSet::new();
    for line in changelog.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            released = !heading.contains("Unreleased");
        } else if released {
            versions.extend(version(line));
        }
    }
    versions
}

fn version(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("ABI_VERSION")?;
    let digits = rest.trim_start_matches(['`', ':', ' ']);
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreleased_versions_may_still_change() {
        let changelog = "# Changelog\n\n## [Unreleased]\n\n- `ABI_VERSION` 3.\n\n\
            ## [0.2.0] - 2030-01-01\n\n- `ABI_VERSION`: 2\n\n## [0.1.0]\n- ABI_VERSION 1, new\n";
        assert_eq!(versions(changelog), BTreeSet::from([1, 2]));
        assert_eq!(
            versions("## [Unreleased]\n- `ABI_VERSION` 1\n"),
            BTreeSet::new()
        );
    }
}
