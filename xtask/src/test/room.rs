//! What may run side by side: a machine has room for so much, each test takes a part of it.
//!
//! Most tests wait for real servers and real networks, so that far more of them fit on a
//! processor than one; those that measure, or fill the machine, have it to themselves.

/// What a test takes while it runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Needs {
    /// Its part of the room.
    pub(super) share: Share,
    /// A turn that only one running test has at a time.
    pub(super) turn: Option<&'static str>,
}

/// A part of the room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Share {
    /// As many units.
    Units(usize),
    /// All of it: nothing else runs meanwhile.
    Whole,
}

impl Needs {
    /// One that nothing else may disturb.
    pub(super) const ALONE: Self = Self {
        share: Share::Whole,
        turn: None,
    };

    /// One that runs beside any other.
    pub(super) const fn units(units: usize) -> Self {
        Self {
            share: Share::Units(units),
            turn: None,
        }
    }
}

/// The room of a machine, in units.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room(usize);

/// Units for each processor.
const UNITS: usize = 3;

impl Room {
    /// Of a machine with as many processors.
    pub(super) fn of(processors: usize) -> Self {
        Self(UNITS * processors.max(1))
    }

    /// For no more than `most` of the smallest at once.
    pub(super) fn limited(self, most: usize) -> Self {
        Self(self.0.min(most.max(1)))
    }

    /// The first of `waiting` that fits beside what is `running`. What has to be alone comes
    /// when nothing else is left to run, for until then something smaller fits.
    pub(super) fn next<'a>(
        self,
        mut waiting: impl Iterator<Item = &'a Needs>,
        running: &[Needs],
    ) -> Option<usize> {
        waiting.position(|needs| self.has(*needs, running))
    }

    fn has(self, needs: Needs, running: &[Needs]) -> bool {
        // What takes more than there is runs by itself.
        if running.is_empty() {
            return true;
        }
        let turn_taken = needs.turn.is_some() && running.iter().any(|one| one.turn == needs.turn);
        let taken: usize = running.iter().map(|one| self.units(one.share)).sum();
        !turn_taken && taken + self.units(needs.share) <= self.0
    }

    fn units(self, share: Share) -> usize {
        match share {
            Share::Units(units) => units,
            Share::Whole => self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Needs = Needs::units(1);
    const BIG: Needs = Needs::units(2);
    const BY_TURNS: Needs = Needs {
        turn: Some("load"),
        ..ONE
    };

    #[test]
    fn the_first_that_fits_is_next() {
        let room = Room(3);
        assert_eq!(room.next([BIG, ONE].iter(), &[ONE]), Some(0));
        assert_eq!(room.next([BIG, ONE].iter(), &[BIG]), Some(1));
        assert_eq!(room.next([BIG, ONE].iter(), &[BIG, ONE]), None);
        assert_eq!(room.next([].iter(), &[]), None);
    }

    #[test]
    fn a_turn_is_one_at_a_time() {
        let room = Room(3);
        assert_eq!(room.next([BY_TURNS, ONE].iter(), &[BY_TURNS]), Some(1));
        assert_eq!(room.next([BY_TURNS, ONE].iter(), &[ONE]), Some(0));
    }

    #[test]
    fn what_is_to_be_alone_waits_for_all_others_and_they_for_it() {
        let room = Room(3);
        assert_eq!(room.next([Needs::ALONE].iter(), &[ONE]), None);
        assert_eq!(room.next([ONE].iter(), &[Needs::ALONE]), None);
        assert_eq!(room.next([Needs::ALONE].iter(), &[]), Some(0));
        // Never is nothing run because all of it is too big.
        assert_eq!(Room(1).next([BIG].iter(), &[]), Some(0));
    }

    #[test]
    fn a_person_may_want_less() {
        assert_eq!(Room::of(2).0, 6);
        assert_eq!(Room::of(2).limited(1).0, 1);
        assert_eq!(Room::of(2).limited(99).0, 6);
    }
}
