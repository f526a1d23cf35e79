//! The compiler of the BPF programs: one that has the source of `core` with it, since no
//! toolchain brings a `core` built for BPF. See docs/testing.md.

use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::process;

/// The distribution's compiler; rustup's is never here.
const DISTRIBUTION: &str = "/usr/bin/rustc";
/// The distribution's clippy, of the same build.
const DISTRIBUTION_CLIPPY: &str = "/usr/bin/cargo-clippy";
/// Where a toolchain keeps the source of `core`, below its sysroot.
const CORE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";
/// The workspace's `rust-version`: the oldest compiler that takes its source.
const OLDEST: (u32, u32) = (1, 95);
/// Newest LLVM whose bitcode the linker reads that `setup` builds.
const NEWEST_LLVM: u32 = 22;

/// A compiler that can build the programs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Compiler {
    /// `/usr/bin/rustc` of the distribution, a stable release.
    Distribution {
        /// Its release, as it says.
        release: String,
    },
    /// rustup's `nightly`, with the component `rust-src`.
    Nightly,
}

impl Compiler {
    /// The distribution's when it is recent enough and has its source, else rustup's nightly.
    pub(crate) fn find() -> Option<Self> {
        Self::distribution().or_else(Self::nightly)
    }

    fn distribution() -> Option<Self> {
        if !process::is_executable(Path::new(DISTRIBUTION)) {
            return None;
        }
        let version = Version::parse(&process::probe(Command::new(DISTRIBUTION).arg("-vV"))?)?;
        (version.fits() && has_core(&mut Command::new(DISTRIBUTION))).then_some(
            Self::Distribution {
                release: version.release,
            },
        )
    }

    fn nightly() -> Option<Self> {
        has_core(Command::new("rustup").args(["run", "nightly", "rustc"])).then_some(Self::Nightly)
    }

    /// Whether the clippy that goes with this compiler is there.
    pub(super) fn has_clippy(&self) -> bool {
        match self {
            Self::Distribution { .. } => process::is_executable(Path::new(DISTRIBUTION_CLIPPY)),
            Self::Nightly => {
                let mut clippy = Command::new("rustup");
                clippy.args(["run", "nightly", "cargo-clippy", "--version"]);
                process::probe(&mut clippy).is_some()
            }
        }
    }

    /// `cargo build` with this compiler; arguments follow.
    pub(crate) fn build(&self) -> Command {
        let mut command = match self {
            Self::Distribution { .. } => process::cargo(),
            Self::Nightly => process::cargo_of("nightly"),
        };
        command.arg("build");
        self.with_environment(command)
    }

    /// `cargo clippy` with this compiler; arguments follow.
    pub(crate) fn clippy(&self) -> Command {
        let mut command = match self {
            // The host's `cargo clippy` would take the driver of the host's toolchain.
            Self::Distribution { .. } => process::in_workspace(Command::new(DISTRIBUTION_CLIPPY)),
            Self::Nightly => process::cargo_of("nightly"),
        };
        command.arg("clippy");
        self.with_environment(command)
    }

    fn with_environment(&self, mut command: Command) -> Command {
        // `cargo run` points LD_LIBRARY_PATH at the libraries of the host's toolchain; the
        // others are meant for builds for the host.
        for name in [
            "LD_LIBRARY_PATH",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC",
            "RUSTC_WRAPPER",
        ] {
            command.env_remove(name);
        }
        if let Self::Distribution { .. } = self {
            command
                .env("RUSTC", DISTRIBUTION)
                .env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Distribution { release } => write!(formatter, "{DISTRIBUTION} {release}"),
            Self::Nightly => write!(formatter, "rustup's nightly"),
        }
    }
}

/// Whether the toolchain of this `rustc` has the source of `core`.
fn has_core(rustc: &mut Command) -> bool {
    process::probe(rustc.args(["--print", "sysroot"]))
        .is_some_and(|sysroot| Path::new(sysroot.trim()).join(CORE).is_file())
}

/// What `rustc -vV` says.
#[derive(Debug, Eq, PartialEq)]
struct Version {
    release: String,
    rust: (u32, u32),
    llvm: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let value = |key| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .map(str::trim)
        };
        let release = value("release:")?;
        let mut numbers = release.split(['.', '-']);
        let rust = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let llvm = value("LLVM version:")?.split('.').next()?.parse().ok()?;
        Some(Self {
            release: release.to_owned(),
            rust,
            llvm,
        })
    }

    fn fits(&self) -> bool {
        self.rust >= OLDEST && self.llvm <= NEWEST_LLVM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(release: &str, llvm: &str) -> Option<Version> {
        Version::parse(&format!(
            "rustc {release} (ac68faa20 2026-05-25) (built from a source tarball)\n\
             binary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: {release}\n\
             LLVM version: {llvm}\n"
        ))
    }

    #[test]
    fn a_version_is_read_whole() {
        let expected = Version {
            release: "1.97.0-nightly".to_owned(),
            rust: (1, 97),
            llvm: 22,
        };
        assert_eq!(version("1.97.0-nightly", "22.1.8"), Some(expected));
        assert_eq!(version("1.97", "22.1"), version("1.97", "22"));
        assert_eq!(version("one", "22"), None);
        assert_eq!(version("1.96.0", "unknown"), None);
        assert_eq!(Version::parse(""), None);
    }

    #[test]
    fn old_rust_and_newer_llvm_do_not_fit() {
        let fits = |release, llvm| version(release, llvm).unwrap().fits();
        assert!(fits("1.96.0", "22.1.8"));
        assert!(fits("1.95.0", "21.1.0"));
        assert!(fits("2.0.0", "22.0.0"));
        assert!(!fits("1.94.1", "22.1.8"));
        assert!(!fits("1.63.0", "14.0.6"));
        assert!(!fits("1.98.0", "23.1.0"));
    }

    #[test]
    fn the_oldest_compiler_is_the_workspaces() {
        let manifest = include_str!("../../../Cargo.toml");
        let (major, minor) = OLDEST;
        assert!(manifest.contains(&format!("rust-version = \"{major}.{minor}\"")));
    }
}
