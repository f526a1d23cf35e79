//! Waiting for a program that cleans up after Ctrl-C: never end before it does.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::SI_USER;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// The signals that ask to stop.
const STOP: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Runs `command` and waits for its end, whatever signal asks this process to stop meanwhile.
///
/// A terminal sends Ctrl-C to both processes. What another process sends reaches this one
/// alone and is handed on. To be called from the only thread: others would get the signals.
pub(crate) fn wait_for(command: &mut Command) -> Result<ExitStatus> {
    let mut child = command.spawn().context("start")?;
    // Blocked, so that they wait in the descriptor. Not before the child is there: it would
    // inherit the mask and never hear of them.
    let set: SigSet = STOP.into_iter().collect();
    set.thread_block().context("block signals")?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).context("open a signalfd")?;
    let pid = Pid::from_raw(i32::try_from(child.id()).context("the process id is no pid")?);
    let running = Arc::new(Mutex::new(Some(pid)));
    let receiver = Arc::clone(&running);
    // Not joined: it waits for signals until this process ends.
    thread::spawn(move || hand_on(&signals, &receiver));
    // The dead child keeps its number until nobody can send to it any more.
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    *running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    child.wait().context("wait")
}

/// The exit code a shell would give for `status`.
pub(crate) fn code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn hand_on(signals: &SignalFd, running: &Mutex<Option<Pid>>) {
    while let Ok(Some(info)) = signals.read_signal() {
        let Some(signal) = to_hand_on(info.ssi_signo, info.ssi_code) else {
            continue;
        };
        let running = running.lock().unwrap_or_else(PoisonError::into_inner);
        // Not reaped yet, so the number is still this child's, and sending cannot fail.
        if let Some(pid) = *running
            && kill(pid, signal).is_err()
        {
            return;
        }
    }
}

/// The signal, if it came from another process; a terminal's has another code.
fn to_hand_on(number: u32, code: i32) -> Option<Signal> {
    let signal = Signal::try_from(i32::try_from(number).ok()?).ok()?;
    (STOP.contains(&signal) && code == SI_USER).then_some(signal)
}

#[cfg(test)]
mod tests {
    use nix::libc::SI_KERNEL;

    use super::*;

    #[test]
    fn the_childs_end_is_ours() {
        for (raw, expected) in [(0, 0), (3 << 8, 3), (2, 130), (15, 143)] {
            let code = code(ExitStatus::from_raw(raw));
            assert_eq!(
                format!("{code:?}"),
                format!("{:?}", ExitCode::from(expected)),
                "{raw}"
            );
        }
    }

    #[test]
    fn the_childs_end_is_returned() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 7"]);
        assert_eq!(wait_for(&mut command).unwrap().code(), Some(7));
    }

    #[test]
    fn the_child_hears_signals() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap 'exit 9' TERM; kill -TERM $$; exit 1"]);
        assert_eq!(wait_for(&mut command).unwrap().code(), Some(9));
    }

    #[test]
    fn what_cannot_start_is_an_error() {
        let error = wait_for(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert_eq!(error.to_string(), "start");
    }

    #[test]
    fn ctrl_c_at_a_terminal_is_not_sent_twice() {
        assert_eq!(to_hand_on(2, SI_KERNEL), None);
        assert_eq!(to_hand_on(2, SI_USER), Some(Signal::SIGINT));
        assert_eq!(to_hand_on(15, SI_USER), Some(Signal::SIGTERM));
        assert_eq!(to_hand_on(9, SI_USER), None);
        assert_eq!(to_hand_on(0, SI_USER), None);
    }
}
