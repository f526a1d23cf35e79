//! A thread that no signal disturbs. Where one is pending the verifier gives up with `EAGAIN`
//! (`do_check()` in `kernel/bpf/verifier.c`, v6.18), after seconds perhaps, and a call with a time
//! limit with `EINTR`. A child that ends is enough, and the agent has many.

use std::marker::PhantomData;

use aya::programs::ProgramError;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};

/// How often a program is loaded at most: libbpf's number (`PROG_LOAD_ATTEMPTS`, v1.5).
const ATTEMPTS: u32 = 5;

/// Loads a program, again where the verifier was disturbed: being stopped, or frozen with a
/// container, is a signal that cannot be held off.
pub(super) fn load(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    again(load, |error| {
        let ProgramError::LoadError { io_error, .. } = error else {
            return false;
        };
        io_error.raw_os_error() == Some(Errno::EAGAIN as i32)
    })
}

fn again<E>(
    mut load: impl FnMut() -> Result<(), E>,
    is_disturbed: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for _ in 1..ATTEMPTS {
        match load() {
            Err(error) if is_disturbed(&error) => {}
            outcome => return outcome,
        }
    }
    load()
}

/// Until it is dropped, signals for this process go to its other threads, or wait. So it is for
/// threads that this one starts, and would be for processes.
pub(super) struct Undisturbed {
    before: Option<SigSet>,
    _of_this_thread: PhantomData<*const ()>,
}

impl Undisturbed {
    /// From now on.
    pub(super) fn begin() -> Self {
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
        if let Err(error) = before {
            tracing::debug!(%error, "signals may disturb");
        }
        Self {
            before: before.ok(),
            _of_this_thread: PhantomData,
        }
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && let Err(error) = before.thread_set_mask()
        {
            tracing::warn!(%error, "this thread hears no signals any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn a_disturbed_load_is_repeated_but_not_for_ever() {
        const DISTURBED: &str = "disturbed";
        let check = |outcomes: &[Result<(), &'static str>], calls: usize, last| {
            let mut made = outcomes.iter().cycle().copied();
            let mut count = 0;
            let outcome = again(
                || {
                    count += 1;
                    made.next().unwrap()
                },
                |error| *error == DISTURBED,
            );
            assert_eq!((count, outcome), (calls, last));
        };
        check(&[Ok(())], 1, Ok(()));
        check(&[Err("refused")], 1, Err("refused"));
        check(&[Err(DISTURBED), Err(DISTURBED), Ok(())], 3, Ok(()));
        check(&[Err(DISTURBED)], 5, Err(DISTURBED));
    }

    #[test]
    fn what_is_blocked_is_blocked_until_the_end_and_for_threads_as_well() {
        let blocks = || {
            let mask = SigSet::thread_get_mask().unwrap();
            mask.contains(Signal::SIGCHLD) && mask.contains(Signal::SIGTERM)
        };
        assert!(!blocks());
        let undisturbed = Undisturbed::begin();
        assert!(blocks());
        assert!(std::thread::spawn(blocks).join().unwrap());
        drop(undisturbed);
        assert!(!blocks());
    }
}
