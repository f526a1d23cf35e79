//! A directory of our own for what a node or a server keeps in files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::netns::report;

/// Where all of them are; root's alone, so that a predictable name is safe.
pub const PARENT: &str = "/run/twill-testbed";

/// A directory that is removed on drop.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes `/run/twill-testbed/<name>`; it is an error if there is one.
    pub fn new(name: &str) -> Result<Self> {
        let path = path_of(name);
        fs::create_dir_all(PARENT).with_context(|| format!("make {PARENT}"))?;
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.path)
            .with_context(|| format!("remove {}", self.path.display()));
        if let Err(error) = removed {
            report(&error);
        }
    }
}

/// Where the directory `name` is.
pub fn path_of(name: &str) -> PathBuf {
    Path::new(PARENT).join(name)
}
