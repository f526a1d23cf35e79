//! Something that is tried again and again, and why it fails: said once, and again when it
//! changes.

/// Why it failed last.
#[derive(Debug, Default)]
pub(crate) struct Complaint(Option<String>);

impl Complaint {
    /// Whether this is another reason than last time.
    pub(crate) fn is_news(&mut self, why: &str) -> bool {
        let news = self.0.as_deref() != Some(why);
        if news {
            self.0 = Some(why.to_owned());
        }
        news
    }

    /// It worked. Whether it had failed.
    pub(crate) fn is_over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_reason_is_said_once_until_it_works() {
        let mut complaint = Complaint::default();
        assert!(!complaint.is_over());
        assert!(complaint.is_news("full"));
        assert!(!complaint.is_news("full"));
        assert!(complaint.is_news("read-only"));
        assert!(complaint.is_over());
        assert!(complaint.is_news("read-only"));
    }
}
