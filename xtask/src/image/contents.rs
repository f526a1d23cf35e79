//! `xtask/image/contents`: what is taken out of Debian's packages, and the links.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// The list.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Contents {
    /// What is taken, each with its package.
    pub(super) takes: Vec<Take>,
    /// Symbolic links: path and target.
    pub(super) links: Vec<(String, String)>,
}

/// A file, or all files of a folder.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Take {
    pub(super) package: String,
    pub(super) path: String,
}

impl Contents {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("read {}", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut contents = Self::default();
        let mut package = None;
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [word, ..] if word.starts_with('#') => {}
                ["package", name] => package = Some((*name).to_owned()),
                ["take", path] => contents.takes.push(Take {
                    package: package.clone().context("take before any package")?,
                    path: path.replace("LIB", &super::elf::library_folder()),
                }),
                ["link", path, target] => {
                    contents.links.push(((*path).into(), (*target).into()));
                }
                _ => bail!("a line that is none: {line:?}"),
            }
        }
        Ok(contents)
    }

    /// The packages, each once.
    pub(super) fn packages(&self) -> BTreeSet<&str> {
        let takes = self.takes.iter();
        takes.map(|take| take.package.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places;

    #[test]
    fn lines_are_read() {
        let contents = Contents::parse(
            "# x\npackage a\ntake /b\ntake /c\n\nlink /d e\npackage f\ntake /g\n\
                             package a\ntake /h\n",
        )
        .unwrap();
        assert_eq!(contents.packages(), ["a", "f"].into());
        assert_eq!(contents.takes.len(), 4);
        assert_eq!(contents.links, [("/d".to_owned(), "e".to_owned())]);
        for bad in ["take /a", "package", "copy a b", "link /a"] {
            assert!(Contents::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_list_can_be_read() {
        let contents = Contents::read(&places::root().join("xtask/image/contents")).unwrap();
        assert!(contents.packages().contains("iptables"));
    }
}
