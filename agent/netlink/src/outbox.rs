//! What the monitor has to tell, and when: changes are gathered for a moment, and of each kind
//! there is not more than one event in a while.

use std::time::Duration;

use tokio::time::Instant;
use twill_core::event::Event;

/// How long changes are gathered before they are told.
const GATHER: Duration = Duration::from_millis(10);
/// The least time between two events of one kind.
const SPACING: Duration = Duration::from_millis(100);

/// What a change is about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Changed {
    /// Our device, the uplink, or the way to peers.
    pub(super) kernel: bool,
    /// What pods hang on.
    pub(super) pods: bool,
}

impl Changed {
    /// Whatever there is may have changed.
    pub(super) const ANYTHING: Self = Self {
        kernel: true,
        pods: true,
    };

    /// Adds another change to this one.
    pub(super) fn add(&mut self, other: Self) {
        self.kernel |= other.kernel;
        self.pods |= other.pods;
    }
}

/// Events to come, one of each kind at most.
#[derive(Debug)]
pub(super) struct Outbox {
    kernel: Slot,
    pods: Slot,
}

#[derive(Debug)]
struct Slot {
    /// When the change that was heard is to be told; `None` if there is none.
    due: Option<Instant>,
    /// Not before this.
    earliest: Instant,
}

impl Outbox {
    /// Nothing to tell.
    pub(super) fn new(now: Instant) -> Self {
        let slot = || Slot {
            due: None,
            earliest: now,
        };
        Self {
            kernel: slot(),
            pods: slot(),
        }
    }

    /// Takes note of what changed.
    pub(super) fn note(&mut self, changed: Changed, now: Instant) {
        for (changed, slot) in [
            (changed.kernel, &mut self.kernel),
            (changed.pods, &mut self.pods),
        ] {
            if changed && slot.due.is_none() {
                slot.due = Some((now + GATHER).max(slot.earliest));
            }
        }
    }

    /// When the next event is due, if one is.
    pub(super) fn due(&self) -> Option<Instant> {
        let slots = [&self.kernel, &self.pods];
        slots.into_iter().filter_map(|slot| slot.due).min()
    }

    /// The event that is due first; it is told now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Event> {
        let due = self.due()?;
        let (slot, event) = if self.kernel.due == Some(due) {
            (&mut self.kernel, Event::KernelChanged)
        } else {
            (&mut self.pods, Event::PodsChanged)
        };
        slot.due = None;
        slot.earliest = now + SPACING;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Changed = Changed {
        kernel: true,
        pods: false,
    };
    const PODS: Changed = Changed {
        kernel: false,
        pods: true,
    };

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn each_kind_is_told_once_and_in_its_own_time() {
        let start = Instant::now();
        let at = |milliseconds| start + ms(milliseconds);
        let mut outbox = Outbox::new(start);
        outbox.note(Changed::default(), start);
        assert_eq!((outbox.due(), outbox.take(start)), (None, None));

        outbox.note(PODS, at(0));
        outbox.note(KERNEL, at(4));
        outbox.note(PODS, at(6));
        assert_eq!(outbox.due(), Some(at(10)));
        assert_eq!(outbox.take(at(10)), Some(Event::PodsChanged));
        assert_eq!(outbox.due(), Some(at(14)));

        // The channel was full for a while; meanwhile pods changed again.
        outbox.note(PODS, at(20));
        assert_eq!(outbox.take(at(60)), Some(Event::KernelChanged));
        assert_eq!(outbox.due(), Some(at(110)), "spaced from its like");
        outbox.note(KERNEL, at(70));
        assert_eq!(outbox.take(at(110)), Some(Event::PodsChanged));
        assert_eq!(outbox.due(), Some(at(160)));
        assert_eq!(outbox.take(at(160)), Some(Event::KernelChanged));
        assert_eq!(outbox.due(), None);

        outbox.note(Changed::ANYTHING, at(900));
        assert_eq!(outbox.take(at(910)), Some(Event::KernelChanged));
        assert_eq!(outbox.take(at(910)), Some(Event::PodsChanged));
    }
}
