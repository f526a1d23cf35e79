//! `docs/compatibility.md` names a test in each row: each of them exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::places;

const DOCUMENT: &str = "docs/compatibility.md";
/// The header of the column.
const COLUMN: &str = "test";
/// Folders with tests, and what their paths in the module tree begin with here.
const FOLDERS: [(&str, &str); 9] = [
    ("agent/src", "unit"),
    ("agent/core/src", "unit"),
    ("agent/cni/src", "unit"),
    ("agent/datapath/src", "unit::datapath"),
    ("agent/netfilter/src", "unit::netfilter"),
    ("agent/files/src", "unit::files"),
    ("agent/ctl/src", "unit::ctl"),
    ("agent/netlink/src", "unit::netlink"),
    // Each tier is a folder in it.
    ("tests/tiers", ""),
];

/// Fails with every name that is no test's, and every row that names none.
pub(crate) fn check() -> Result<()> {
    let mut tests = BTreeSet::new();
    for (folder, prefix) in FOLDERS {
        collect(&places::root().join(folder), prefix, &mut tests)?;
    }
    let path = places::root().join(DOCUMENT);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let complaints = complaints(&text, &tests);
    ensure!(
        complaints.is_empty(),
        "{DOCUMENT}:\n  {}",
        complaints.join("\n  ")
    );
    Ok(())
}

/// Adds the paths of all tests below a folder, as `unit::args::tests::a_name`.
fn collect(folder: &Path, prefix: &str, tests: &mut BTreeSet<String>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let below = match (prefix, &*stem) {
            (_, "mod" | "lib" | "main") => prefix.to_owned(),
            ("", name) => name.to_owned(),
            (_, name) => format!("{prefix}::{name}"),
        };
        if path.is_dir() {
            collect(&path, &below, tests)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            tests.extend(names(&text).map(|name| format!("{below}::{name}")));
        }
    }
    Ok(())
}

/// The tests of a source file, with the module inside of it that they are in.
fn names(source: &str) -> impl Iterator<Item = String> {
    let (mut module, mut expected) = ("", false);
    source.lines().filter_map(move |line| {
        let line = line.trim();
        if line == "mod tests {" {
            module = "tests::";
        }
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            expected = true;
        }
        let (_, function) = line.split_once("fn ").filter(|_| expected)?;
        let (name, _) = function.split_once('(')?;
        expected = false;
        Some(format!("{module}{name}"))
    })
}

fn complaints(document: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for line in document.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Some(last) = cells.last().filter(|cell| **cell != COLUMN) else {
            continue;
        };
        if last.chars().all(|char| char == '-') && !last.is_empty() {
            continue;
        }
        let row: String = line.chars().take(60).collect();
        // Between every second pair of backticks is a name, before it perhaps a tier.
        let pieces: Vec<_> = last.split('`').collect();
        if pieces.len() < 2 {
            complaints.push(format!("no test: {row}…"));
        }
        for pair in pieces.chunks_exact(2) {
            let tier = pair[0].trim_matches([' ', ',']);
            let name = pair[1];
            if !tests.iter().any(|test| is_named(test, tier, name)) {
                complaints.push(format!("no such test: {tier} {name}"));
            }
        }
    }
    complaints
}

/// Whether a name, of a test or a module or with a star at its end, is this test's.
fn is_named(test: &str, tier: &str, name: &str) -> bool {
    let (path, whole) = match name.strip_suffix('*') {
        Some(begin) => (begin, false),
        None => (name, true),
    };
    let begin = format!("{}::", tier.replace('-', "_"));
    let rest = if tier.is_empty() {
        Some(test)
    } else {
        test.strip_prefix(&begin)
    };
    let Some(rest) = rest else { return false };
    let (rest, path) = (format!("::{rest}"), format!("::{path}"));
    let mut found = rest.match_indices(&path);
    found.any(|(at, _)| {
        let after = rest.get(at + path.len()..).unwrap_or_default();
        !whole || after.is_empty() || after.starts_with("::")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_a_test_that_there_is() {
        check().unwrap();
    }

    #[test]
    fn tests_are_found_with_their_modules() {
        let source = "fn a() {}\n#[test]\nfn b() {}\nmod tests {\n    #[tokio::test(x)]\n    \
                      async fn c() {\n    fn d() {}\n";
        assert_eq!(names(source).collect::<Vec<_>>(), ["b", "tests::c"]);
    }

    #[test]
    fn a_name_is_the_end_of_a_path_or_a_module() {
        let test = "netns::netlink::uplink::it_is_found";
        for (tier, name) in [
            ("", "it_is_found"),
            ("", "uplink::it_is_found"),
            ("netns", "netlink::uplink"),
            ("", "netlink"),
            ("", "uplink::it_*"),
        ] {
            assert!(is_named(test, tier, name), "{tier} {name}");
        }
        for (tier, name) in [
            ("", "is_found"),
            ("", "it_is"),
            ("e2e", "it_is_found"),
            ("", "link"),
        ] {
            assert!(!is_named(test, tier, name), "{tier} {name}");
        }
    }

    #[test]
    fn rows_without_a_test_are_told() {
        let tests = ["unit::a::b".to_owned()].into();
        let table = "| flannel | Twill | test |\n| --- | --- | --- |\n| x | y | `a::b` |\n";
        assert_eq!(complaints(table, &tests), [""; 0]);
        let table = "| x | y | |\n| x | y | `a::b`, e2e `c` |\n";
        let told = complaints(table, &tests);
        assert_eq!(told, ["no test: | x | y | |…", "no such test: e2e c"]);
    }
}
