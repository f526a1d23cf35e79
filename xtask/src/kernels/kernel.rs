//! The kernels, and where Debian has them.

/// A kernel series that the programs must work on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Kernel {
    /// Its version, as far as it is fixed: what a person names it by.
    pub(super) series: &'static str,
    /// The suite of Debian that has it.
    pub(super) suite: &'static str,
    /// What the names of its packages begin with; from 7 on image and modules are apart.
    pub(super) packages: &'static [&'static str],
    /// Whether two guests of it are joined as well.
    pub(super) pair: bool,
}

/// What the names of its packages end with: the smallest flavour, which boots on QEMU's devices.
pub(super) const FLAVOUR: &str = "-cloud-amd64";

/// Every kernel, oldest first.
pub(super) const KERNELS: [Kernel; 4] = [
    Kernel {
        series: "5.10",
        suite: "bullseye",
        packages: &["linux-image-5.10."],
        pair: false,
    },
    Kernel {
        series: "6.1",
        suite: "bookworm",
        packages: &["linux-image-6.1."],
        pair: false,
    },
    Kernel {
        series: "6.12",
        suite: "trixie",
        packages: &["linux-image-6.12."],
        pair: true,
    },
    Kernel {
        series: "7.2",
        suite: "sid",
        packages: &["linux-binary-7.2.", "linux-modules-7.2."],
        pair: false,
    },
];

/// The newest of `names` that is a package of this kind: `prefix`, numbers, [`FLAVOUR`].
pub(super) fn newest<'name>(
    names: impl Iterator<Item = &'name str>,
    prefix: &str,
) -> Option<&'name str> {
    names
        .filter(|name| name.starts_with(prefix) && name.ends_with(FLAVOUR))
        .max_by_key(|name| numbers(name))
}

/// The numbers in a name, which order versions as people read them.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 8] = [
        "linux-image-5.10.0-9-cloud-amd64",
        "linux-image-5.10.0-32-cloud-amd64",
        "linux-image-5.10.0-33-cloud-amd64-unsigned",
        "linux-image-5.10.0-33-cloud-amd64-dbg",
        "linux-image-5.10.0-33-amd64",
        "linux-image-6.1.0-50-cloud-amd64",
        "linux-image-6.12.94+deb13-cloud-amd64",
        "linux-image-6.12.107+deb13-cloud-amd64",
    ];

    #[test]
    fn the_newest_by_number_is_taken() {
        let newest = |prefix| newest(NAMES.into_iter(), prefix);
        assert_eq!(newest("linux-image-5.10."), Some(NAMES[1]));
        assert_eq!(newest("linux-image-6.1."), Some(NAMES[5]));
        assert_eq!(newest("linux-image-6.12."), Some(NAMES[7]));
        assert_eq!(newest("linux-binary-7.2."), None);
    }
}
