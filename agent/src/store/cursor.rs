//! How far the watcher of a store has come that counts its changes. Pure.

use twill_core::leases::Position;

/// Between the store's name and the number of its last change, in a [`Position`].
const BETWEEN: char = '@';

/// A store, and the number of its last change that is known.
#[derive(Clone, Debug, Eq, PartialEq)]
struct At {
    store: String,
    revision: u64,
}

/// Where a watcher is.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    at: Option<At>,
    /// Whether a watch can go on from there.
    is_current: bool,
}

impl Cursor {
    /// Before the first list; an earlier start had come to `position`.
    pub(super) fn after(position: Option<&Position>) -> Self {
        Self {
            at: position.map(|position| At::read(position.as_str())),
            is_current: false,
        }
    }

    /// The store and revision to watch from; `None` if a list is needed first.
    pub(super) fn resume(&self) -> Option<(&str, u64)> {
        let at = self.at.as_ref().filter(|_| self.is_current)?;
        Some((&at.store, at.revision))
    }

    /// The next thing to do is to list.
    pub(super) fn forget(&mut self) {
        self.is_current = false;
    }

    /// A list is of this store and revision. Gives its position, and whether the store is another
    /// one than that which was known, or is behind it: then it has lost its data.
    pub(super) fn listed(&mut self, store: String, revision: u64) -> (Position, bool) {
        let replaced = self
            .at
            .as_ref()
            .is_some_and(|at| at.store != store || revision < at.revision);
        let at = At { store, revision };
        let position = at.position();
        self.at = Some(at);
        self.is_current = true;
        (position, replaced)
    }

    /// Everything up to this revision is known.
    pub(super) fn reached(&mut self, revision: u64) {
        if let Some(at) = &mut self.at {
            at.revision = at.revision.max(revision);
        }
    }

    /// The revision that is known.
    pub(super) fn revision(&self) -> u64 {
        self.at.as_ref().map_or(0, |at| at.revision)
    }

    /// The store that is known.
    pub(super) fn store(&self) -> Option<&str> {
        self.at.as_ref().map(|at| at.store.as_str())
    }

    /// The same as a position; `None` before the first list.
    pub(super) fn position(&self) -> Option<Position> {
        self.at.as_ref().map(At::position)
    }
}

impl At {
    fn position(&self) -> Position {
        let Self { store, revision } = self;
        Position::new(format!("{store}{BETWEEN}{revision}"))
    }

    /// Of the position of another kind of store only this is left: it is another one.
    fn read(text: &str) -> Self {
        let parts = text.rsplit_once(BETWEEN);
        let parts = parts.and_then(|(store, revision)| Some((store, revision.parse().ok()?)));
        let (store, revision) = parts.unwrap_or((text, 0));
        Self {
            store: store.to_owned(),
            revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str) -> Cursor {
        Cursor::after(Some(&Position::new(text)))
    }

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.position(), None);
        let (position, replaced) = cursor.listed("c6a0b7".to_owned(), 7);
        assert_eq!((position.as_str(), replaced), ("c6a0b7@7", false));
        cursor.reached(9);
        cursor.reached(8);
        assert_eq!(cursor.resume(), Some(("c6a0b7", 9)));
        let position = cursor.position().unwrap();
        let next = Cursor::after(Some(&position));
        assert_eq!((next.store(), next.revision()), (Some("c6a0b7"), 9));
        // A new start lists whatever it knows.
        assert_eq!(next.resume(), None);
    }

    #[test]
    fn a_store_is_replaced_if_its_name_is_another_or_it_is_behind() {
        for (store, revision, replaced) in [
            ("old", 7, false),
            ("old", 8, false),
            ("old", 6, true),
            ("new", 7, true),
            ("new", 1_000, true),
        ] {
            let mut cursor = after("old@7");
            assert_eq!(cursor.listed(store.to_owned(), revision).1, replaced);
            assert!(!cursor.listed(store.to_owned(), revision).1);
        }
        // Of a store of another kind.
        for other in ["", "4711", "@", "old@", "old@x", "old@-1"] {
            let (_, replaced) = after(other).listed("old".to_owned(), 7);
            assert!(replaced, "{other:?}");
        }
    }
}
