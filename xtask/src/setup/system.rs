//! Which operating system this is, as far as installing goes.

/// What is known about installing here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum System {
    /// Debian 12: apt has a Rust that is recent enough for the programs, and its LLVM.
    Bookworm,
    /// Another Debian, or Ubuntu: apt has the tools; Rust for the programs is rustup's.
    Apt,
    /// Commands are printed, not run.
    Unknown,
}

impl System {
    /// From the text of `/etc/os-release` (`man os-release`).
    pub(super) fn from_os_release(text: &str) -> Self {
        let id = value(text, "ID").unwrap_or_default();
        match (id, value(text, "VERSION_ID")) {
            ("debian", Some("12")) => Self::Bookworm,
            ("debian" | "ubuntu", _) => Self::Apt,
            _ => Self::Unknown,
        }
    }
}

/// The value of `key`, without quotes. None of the values that are asked for holds an escape.
fn value<'text>(text: &'text str, key: &str) -> Option<&'text str> {
    text.lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value.trim_matches(['"', '\'']))
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_systems_are_known() {
        for (text, system) in [
            ("ID=debian\nVERSION_ID=\"12\"\n", System::Bookworm),
            ("VERSION_ID='12'\nID='debian'\n", System::Bookworm),
            ("ID=debian\nVERSION_ID=\"13\"\n", System::Apt),
            // Debian's testing names no version.
            ("ID=debian\n", System::Apt),
            (
                "PRETTY_NAME=\"Ubuntu 24.04 LTS\"\nID=ubuntu\nVERSION_ID=\"24.04\"\n",
                System::Apt,
            ),
            ("ID=fedora\nVERSION_ID=12\n", System::Unknown),
            // A derivative has packages of its own.
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", System::Unknown),
            ("# ID=debian\nXID=debian\n", System::Unknown),
            ("", System::Unknown),
        ] {
            assert_eq!(System::from_os_release(text), system, "{text:?}");
        }
    }
}
