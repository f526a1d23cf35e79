//! Replacing a file as a whole.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use super::FileError;

/// Mode of a file that others read, whatever the umask.
const FILE_MODE: u32 = 0o644;
/// Mode of folders that are made for it.
const DIRECTORY_MODE: u32 = 0o755;

/// Puts `text` in the place of the file, and makes the folders above it.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), FileError> {
    write(path, text).map_err(|source| FileError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Makes a folder and those above it.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directory(directory)?;
    // The same folder is the same file system, where a rename is one step.
    let mut file = tempfile::Builder::new()
        .prefix(".twill-")
        .tempfile_in(directory)
        .map_err(bare)?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// The error without the name of a file that chance made: the same failure has the same text.
fn bare(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => error.kind().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_readable_by_all_and_nothing_is_left_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/file");
        replace(&path, "one\n").unwrap();
        replace(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(root.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn an_error_names_the_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "").unwrap();
        let below = path.join("x");
        let error = replace(&below, "").unwrap_err();
        assert!(error.to_string().contains("file/x"), "{error}");
    }

    #[test]
    fn the_same_failure_has_the_same_text() {
        // No files are made there.
        let path = Path::new("/proc/self/twill");
        let texts = [0; 2].map(|_| {
            let error = write(path, "").unwrap_err();
            format!("{error:?} {error}")
        });
        assert_eq!(texts[0], texts[1]);
        assert!(!texts[0].contains(".twill-"), "{}", texts[0]);
    }
}
