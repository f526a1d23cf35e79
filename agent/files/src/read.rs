//! Reading a file that need not be there.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;

use super::FileError;

/// What `parse` makes of the file; `None` if there is none.
pub(super) fn if_there<T, E: Display>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Result<Option<T>, FileError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(FileError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    let parsed = parse(&text).map_err(|error| FileError::Content {
        path: path.to_owned(),
        why: error.to_string(),
    });
    parsed.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(text: &[u8]) -> Result<usize, &'static str> {
        (!text.is_empty()).then_some(text.len()).ok_or("empty")
    }

    #[test]
    fn only_a_file_that_is_missing_is_none() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        assert_eq!(if_there(&path, length).unwrap(), None);
        fs::write(&path, "four").unwrap();
        assert_eq!(if_there(&path, length).unwrap(), Some(4));
        fs::write(&path, "").unwrap();
        let error = if_there(&path, length).unwrap_err();
        assert!(matches!(error, FileError::Content { .. }), "{error}");
        let error = if_there(root.path(), length).unwrap_err();
        assert!(matches!(error, FileError::Read { .. }), "{error}");
    }
}
