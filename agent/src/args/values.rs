//! Values of flags, as Go's `flag` and `strconv` read them where flannel has the flag.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use regex::Regex;

/// The words of Go's `strconv.ParseBool`.
pub(super) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// An integer as Go's `strconv.ParseInt` with base 0 reads it: decimal, `0x`, `0o`, `0b`, or
/// octal with a leading zero; underscores may stand between digits.
pub(super) fn go_int(text: &str) -> Result<i64, String> {
    let wrong = || "write a whole number".to_owned();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits, prefixed) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, lower.get(2..), true),
        [b'0', b'o', ..] => (8, lower.get(2..), true),
        [b'0', b'b', ..] => (2, lower.get(2..), true),
        [b'0', _, ..] => (8, lower.get(1..), true),
        _ => (10, Some(lower.as_str()), false),
    };
    let digits = digits.unwrap_or_default();
    // An underscore stands between two digits, or between the prefix and a digit.
    let astray =
        digits.ends_with('_') || digits.contains("__") || (digits.starts_with('_') && !prefixed);
    if astray || digits.starts_with(['+', '-']) {
        return Err(wrong());
    }
    let plain = digits.replace('_', "");
    let signed = if negative { format!("-{plain}") } else { plain };
    i64::from_str_radix(&signed, radix).map_err(|error| format!("{error}; {}", wrong()))
}

/// A port; none where flannel has it listen nowhere, for 0 and below.
pub(super) fn port(text: &str) -> Result<u16, String> {
    u16::try_from(go_int(text)?.max(0)).map_err(|error| format!("{error}; write 0 to 65535"))
}

/// A period in whole seconds, at least one: flannel's 0 is a loop without a pause.
pub(super) fn period(text: &str) -> Result<Duration, String> {
    match u32::try_from(go_int(text)?) {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err(format!("write a number of seconds from 1 to {}", u32::MAX)),
    }
}

/// The address to listen on; none is every one, as for Go's `net.Listen`.
pub(super) fn listen_ip(text: &str) -> Result<IpAddr, String> {
    if text.is_empty() {
        return Ok(Ipv4Addr::UNSPECIFIED.into());
    }
    let wrong = |error| format!("{error}; write an address of this host, as 127.0.0.1");
    text.parse().map_err(wrong)
}

/// A file that may be none.
#[expect(clippy::unnecessary_wraps, reason = "clap's form of a parser")]
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}

/// Seconds, as our own flags take them.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds.into())),
        _ => Err("write a whole number of seconds from 1 to 3600".to_owned()),
    }
}

/// An IPv4 address.
pub(super) fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    let wrong = |error| format!("{error}; write an IPv4 address, as 192.0.2.1");
    text.parse().map_err(wrong)
}

/// A regular expression; what is wrong with it in one line.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    let wrong = |error: regex::Error| {
        let said = error.to_string();
        let last = said.lines().last().unwrap_or_default();
        let last = last.trim_start_matches("error: ");
        format!("{last}; write a regular expression, as ^eth")
    };
    text.parse().map_err(wrong)
}

/// An IPv4 prefix.
pub(super) fn prefix(text: &str) -> Result<Ipv4Network, String> {
    let wrong = |error: ipnetwork::IpNetworkError| {
        format!("{error}; write an IPv4 prefix, as 10.244.1.7/32")
    };
    text.parse().map_err(wrong)
}

/// One bit, as `0x1000` or `4096`.
pub(super) fn mark_bit(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(bit) if bit.is_power_of_two() => Ok(bit),
        _ => Err("write one bit of 32, as 0x1000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_go_s() {
        for (text, expected) in [
            ("0", Some(0)),
            ("60", Some(60)),
            ("-1", Some(-1)),
            ("+7", Some(7)),
            ("0x10", Some(16)),
            ("0X1f", Some(31)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("0b101", Some(5)),
            ("1_000", Some(1000)),
            ("0x_1F", Some(31)),
            ("0_7", Some(7)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            ("--1", None),
            ("+-1", None),
            ("_1", None),
            ("1_", None),
            ("1__0", None),
            ("0x", None),
            ("0x-1", None),
            ("08", None),
            ("1.0", None),
            ("1e3", None),
            (" 1", None),
            ("1 ", None),
            ("ten", None),
        ] {
            assert_eq!(go_int(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn truth_is_go_s() {
        for word in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(go_bool(word), Ok(true));
        }
        for word in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(go_bool(word), Ok(false));
        }
        for word in ["", "yes", "on", "tRUE", "2", " true"] {
            assert!(go_bool(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn what_flannel_takes_for_nothing_is_nothing() {
        assert_eq!(port("-1"), Ok(0));
        assert_eq!(port("0x1F90"), Ok(8080));
        assert!(port("65536").is_err());
        assert_eq!(listen_ip(""), Ok(Ipv4Addr::UNSPECIFIED.into()));
        assert!(listen_ip("localhost").is_err());
    }

    #[test]
    fn a_period_without_time_is_none() {
        assert_eq!(period("1"), Ok(Duration::from_secs(1)));
        assert_eq!(period("30"), Ok(Duration::from_secs(30)));
        for text in ["0", "-5", "4294967296", "", "1s"] {
            assert!(period(text).is_err(), "{text:?}");
        }
    }
}
