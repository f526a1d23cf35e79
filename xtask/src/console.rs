//! What a person sees: progress on standard error, results on standard output,
//! colour on a terminal only.

#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "this program talks to people"
)]

use std::env;
use std::io::{IsTerminal as _, stderr, stdout};
use std::time::Duration;

/// A stage begins; `text` says what is done and, where it is long, how long it may take.
pub(crate) fn step(text: &str) {
    eprintln!(
        "{} {text}",
        paint(Colour::Bold, "==>", stderr().is_terminal())
    );
}

/// A detail of the stage.
pub(crate) fn note(text: &str) {
    eprintln!("    {text}");
}

/// A line of the result.
pub(crate) fn result(text: &str) {
    println!("{text}");
}

/// The error with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!(
        "{} {error:#}",
        paint(Colour::Red, "error:", stderr().is_terminal())
    );
}

/// `text` in the colour of success or failure, where standard output shows colours.
pub(crate) fn judged(good: bool, text: &str) -> String {
    let colour = if good { Colour::Green } else { Colour::Red };
    paint(colour, text, stdout().is_terminal())
}

/// Seconds with one digit, minutes from one on.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

#[derive(Clone, Copy)]
enum Colour {
    Bold,
    Green,
    Red,
}

fn paint(colour: Colour, text: &str, terminal: bool) -> String {
    // See https://no-color.org: any value but the empty one turns colours off.
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if !terminal || refused {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Bold => "1",
        Colour::Green => "32",
        Colour::Red => "31",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// The end of a text that is too long to be shown whole.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(duration(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(duration(Duration::from_mins(1)), "1 min 0 s");
        assert_eq!(duration(Duration::from_secs(754)), "12 min 34 s");
    }

    #[test]
    fn a_file_gets_no_colour() {
        assert_eq!(paint(Colour::Red, "x", false), "x");
    }
}
