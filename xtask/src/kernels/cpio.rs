//! Writing an initramfs: a cpio archive in the "newc" format
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`, v6.12).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;

/// An archive that is being written. Everything in it belongs to root, without times.
pub(super) struct Archive<W> {
    to: W,
    directories: BTreeSet<String>,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            to,
            directories: BTreeSet::new(),
            inode: 0,
        }
    }

    /// A copy of the file `from` at `path`, with its permissions.
    pub(super) fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        let mode = from
            .metadata()
            .with_context(|| format!("look at {}", from.display()))?;
        self.file(path, &bytes, mode.permissions().mode() & 0o777)
    }

    /// A file.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8], permissions: u32) -> Result<()> {
        self.parents(path)?;
        self.entry(path, FILE | permissions, bytes)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK, target.as_bytes())
    }

    /// An empty folder.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        self.parents(&format!("{path}/."))
    }

    /// Copies of all files below the folder `from`, at `path`.
    pub(super) fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        let entries = fs::read_dir(from).with_context(|| format!("list {}", from.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", from.display()))?;
            let inside = format!("{path}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().context("look at a file")?.is_dir() {
                self.tree(&inside, &entry.path())?;
            } else {
                self.copy(&inside, &entry.path())?;
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush().context("write the archive")?;
        Ok(self.to)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        let mut so_far = String::new();
        let parent = Path::new(path).parent().unwrap_or(Path::new(""));
        for component in parent.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            so_far.push('/');
            so_far.push_str(&name.to_string_lossy());
            if self.directories.insert(so_far.clone()) {
                self.entry(&so_far, DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    /// A header of a magic number and thirteen fields, the name, the bytes; each padded to 4.
    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.inode += 1;
        let name = path.trim_start_matches('/');
        let size = u32::try_from(bytes.len()).with_context(|| format!("{path} is over 4 GiB"))?;
        let name_size = u32::try_from(name.len() + 1).context("a long name")?;
        let links = 1;
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            write!(header, "{field:08x}").context("write a header")?;
        }
        header.push_str(name);
        header.push('\0');
        self.padded(header.as_bytes())
            .and_then(|()| self.padded(bytes))
            .context("write the archive")
    }

    fn padded(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.to.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.to.write_all(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_format_says() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/a/b", b"hello", 0o755).unwrap();
        archive.link("/a/c", "b").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let folder = "07070100000001000041ed00000000000000000000000100000000000000000000000000000000\
                      00000000000000000000000200000000a\0";
        assert!(text.starts_with(folder), "{text:?}");
        // 110 bytes of header, the name and its NUL end on a multiple of four.
        let file = &text[112..];
        assert_eq!(&file[..22], "07070100000002000081ed");
        assert_eq!(&file[54..62], "00000005");
        assert_eq!(&file[110..124], "a/b\0\0\0hello\0\0\0"[..14].to_owned());
        assert!(text.contains("0000a1ff"), "{text:?}");
        assert!(
            text.trim_end_matches('\0').ends_with("TRAILER!!!"),
            "{text:?}"
        );
        assert_eq!(text.len() % 4, 0);
    }

    #[test]
    fn a_folder_is_there_once() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("/run").unwrap();
        archive.file("/run/x", b"", 0o644).unwrap();
        let text = String::from_utf8(archive.finish().unwrap()).unwrap();
        assert_eq!(text.matches("000041ed").count(), 1);
    }
}
