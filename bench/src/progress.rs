//! One line that says how far the run is and how long it still takes.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

/// On standard error: rewritten in place on a terminal, else a line now and then.
pub struct Progress {
    began: Instant,
    steps: u32,
    done: u32,
    terminal: bool,
    told: Option<Instant>,
}

/// How often a line is written where lines stay.
const INTERVAL: Duration = Duration::from_secs(15);

impl Progress {
    /// Of a run of so many steps.
    pub fn new(steps: u32) -> Self {
        Self {
            began: Instant::now(),
            steps,
            done: 0,
            terminal: stderr().is_terminal(),
            told: None,
        }
    }

    /// A step begins.
    pub fn step(&mut self, what: &str) {
        let left = time_left(self.began.elapsed(), self.done, self.steps);
        let percent = self.done * 100 / self.steps.max(1);
        self.done += 1;
        let text = format!("{percent:3} %  {left}  {what}");
        if self.terminal {
            // Back to the start of the line, and clear what was longer.
            write(&format!("\r{text}\x1b[K"));
        } else if self.told.is_none_or(|told| told.elapsed() >= INTERVAL) {
            self.told = Some(Instant::now());
            write(&format!("{text}\n"));
        }
    }

    /// Steps that will not be made after all.
    pub fn skip(&mut self, steps: u32) {
        self.steps = self.steps.saturating_sub(steps).max(self.done);
    }

    /// Says something that stays.
    pub fn note(&mut self, text: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        write(&format!("{clear}{text}\n"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            write("\r\x1b[K");
        }
    }
}

/// Nobody may be listening; the run goes on.
fn write(text: &str) {
    let mut to = stderr();
    drop(to.write_all(text.as_bytes()).and_then(|()| to.flush()));
}

fn time_left(elapsed: Duration, done: u32, steps: u32) -> String {
    if done == 0 {
        return "   … left".to_owned();
    }
    let left = (elapsed / done * steps.saturating_sub(done)).as_secs();
    format!("{:2}:{:02} left", left / 60, left % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_by_the_steps_so_far() {
        assert_eq!(time_left(Duration::from_secs(30), 30, 155), " 2:05 left");
        assert_eq!(time_left(Duration::from_secs(9), 3, 3), " 0:00 left");
        assert_eq!(time_left(Duration::ZERO, 0, 9), "   … left");
    }
}
