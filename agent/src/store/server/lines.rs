//! Cuts a stream of bytes into lines.

use bytes::{Bytes, BytesMut};

use super::answer::AnswerError;

/// What came since the last end of a line.
#[derive(Debug)]
pub(super) struct Lines {
    rest: BytesMut,
    searched: usize,
    limit: usize,
}

impl Lines {
    /// Nothing yet; lines may have this many bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            rest: BytesMut::new(),
            searched: 0,
            limit,
        }
    }

    /// Adds what came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next whole line, without its end; `None` until more has come.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, AnswerError> {
        let unsearched = self.rest.get(self.searched..).unwrap_or_default();
        let Some(place) = unsearched.iter().position(|&byte| byte == b'\n') else {
            self.searched = self.rest.len();
            if self.rest.len() > self.limit {
                return Err(AnswerError::TooLong { limit: self.limit });
            }
            return Ok(None);
        };
        let mut line = self.rest.split_to(self.searched + place + 1);
        line.truncate(line.len() - 1);
        self.searched = 0;
        Ok(Some(line.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text = b"one\n\ntwo two\nrest";
        for size in 1..=text.len() {
            let mut lines = Lines::new(100);
            let mut got = Vec::new();
            for piece in text.chunks(size) {
                lines.push(piece);
                while let Some(line) = lines.next().unwrap() {
                    got.push(line);
                }
            }
            assert_eq!(got, ["one", "", "two two"], "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let mut lines = Lines::new(10);
        lines.push(b"0123456789");
        assert!(lines.next().unwrap().is_none());
        lines.push(b"0");
        assert!(matches!(
            lines.next(),
            Err(AnswerError::TooLong { limit: 10 })
        ));
    }
}
