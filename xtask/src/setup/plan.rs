//! What to run so that what is missing is there: planned first, run or printed after.

use std::fmt;
use std::path::Path;
use std::process::Command;

use super::linker;
use super::system::System;
use super::tools::Tool;
use crate::process;

/// The BPF compiler of Debian 12, its clippy, and what linking against its LLVM takes.
const BOOKWORM_COMPILER: [&str; 3] = ["rustc-web", "rust-web-src", "rust-web-clippy"];
const BOOKWORM_LLVM: [&str; 5] = [
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
    "g++",
];
const BOOKWORM_LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// What is not there.
#[derive(Debug, Default)]
pub(super) struct Missing {
    pub(super) compiler: bool,
    pub(super) linker: bool,
    pub(super) tools: Vec<&'static Tool>,
}

impl Missing {
    pub(super) fn is_empty(&self) -> bool {
        !self.compiler && !self.linker && self.tools.is_empty()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compiler = self.compiler.then(|| "a Rust compiler for BPF".to_owned());
        let linker = self
            .linker
            .then(|| format!("bpf-linker {}", linker::VERSION));
        let tools = self.tools.iter().map(|tool| tool.program.to_owned());
        let names: Vec<String> = compiler.into_iter().chain(linker).chain(tools).collect();
        write!(formatter, "{}", names.join(", "))
    }
}

/// Who may run a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Needs {
    Root,
    Anybody,
}

/// One command.
#[derive(Debug)]
pub(super) struct Step {
    /// What it does.
    pub(super) title: String,
    /// How long it may take.
    pub(super) lasts: &'static str,
    needs: Needs,
    variables: Vec<(&'static str, String)>,
    words: Vec<String>,
}

impl Step {
    /// The command, ready to run.
    pub(super) fn command(&self) -> Command {
        let mut words = self.words.iter();
        let mut command = Command::new(words.next().map_or("true", String::as_str));
        command.args(words);
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command
    }

    /// The command as an ordinary user types it.
    fn line(&self) -> String {
        let line = process::line(&self.command());
        match self.needs {
            Needs::Root => format!("sudo {line}"),
            Needs::Anybody => line,
        }
    }
}

/// Everything to run, in order.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    system: System,
    /// What the user has to install by the system's own means: program and Debian package.
    by_hand: Vec<(&'static str, &'static str)>,
}

impl Plan {
    pub(super) fn new(missing: &Missing, system: System, cache: &Path) -> Self {
        let root = linker::install_root(cache).display().to_string();
        let tools = missing.tools.iter();
        let mut by_hand = Vec::new();
        let mut packages: Vec<&str> = Vec::new();
        if system == System::Unknown {
            by_hand.extend(tools.map(|tool| (tool.program, tool.package)));
        } else {
            packages.extend(tools.map(|tool| tool.package));
        }
        let mut steps = Vec::new();
        if system == System::Bookworm {
            if missing.compiler {
                packages.extend(BOOKWORM_COMPILER);
            }
            if missing.linker {
                packages.extend(BOOKWORM_LLVM);
                steps.push(linker_from_source(&root));
            }
        } else {
            if missing.compiler {
                steps.push(nightly());
            }
            if missing.linker {
                steps.extend(linker_from_release(&root));
            }
        }
        let steps = apt(&packages).into_iter().chain(steps).collect();
        Self {
            steps,
            system,
            by_hand,
        }
    }

    /// Whether this process can run it.
    pub(super) fn possible(&self, root: bool) -> bool {
        self.system != System::Unknown
            && (root || self.steps.iter().all(|step| step.needs == Needs::Anybody))
    }

    /// Why not, to be followed by "are printed above".
    pub(super) fn why_not(&self, root: bool) -> &'static str {
        if self.system == System::Unknown {
            "this system is not one that setup can install on; the commands to run"
        } else if root {
            "nothing stands in the way; the commands to run"
        } else {
            "installing packages takes root; the commands to run"
        }
    }

    /// The commands, for a person to run.
    pub(super) fn instructions(&self) -> String {
        let mut lines = Vec::new();
        if !self.by_hand.is_empty() {
            lines.push("# Install these programs (in brackets: their Debian packages):".to_owned());
            lines.extend(
                self.by_hand
                    .iter()
                    .map(|(program, package)| format!("#   {program} ({package})")),
            );
        }
        for step in &self.steps {
            lines.push(format!("# {} ({})", step.title, step.lasts));
            lines.push(step.line());
        }
        lines.join("\n")
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The package lists are fetched only when something is to be installed.
fn apt(packages: &[&str]) -> Vec<Step> {
    if packages.is_empty() {
        return Vec::new();
    }
    let mut names: Vec<&str> = Vec::new();
    for &package in packages {
        if !names.contains(&package) {
            names.push(package);
        }
    }
    let variables = vec![("DEBIAN_FRONTEND", "noninteractive".to_owned())];
    let mut install = words(&["apt-get", "install", "-y", "-q", "--no-install-recommends"]);
    install.extend(words(&names));
    vec![
        Step {
            title: "fetch the package lists".to_owned(),
            lasts: "up to 1 min",
            needs: Needs::Root,
            variables: variables.clone(),
            words: words(&["apt-get", "update", "-q"]),
        },
        Step {
            title: "install packages".to_owned(),
            lasts: "up to 5 min",
            needs: Needs::Root,
            variables,
            words: install,
        },
    ]
}

fn linker_from_source(root: &str) -> Step {
    let package = format!("bpf-linker@{}", linker::VERSION);
    Step {
        title: format!("build {package}"),
        lasts: "1 to 3 min",
        needs: Needs::Anybody,
        variables: vec![("LLVM_PREFIX", BOOKWORM_LLVM_PREFIX.to_owned())],
        words: words(&[
            "cargo",
            "install",
            &package,
            "--locked",
            "--no-default-features",
            "--features",
            "llvm-22",
            "--root",
            root,
        ]),
    }
}

fn nightly() -> Step {
    Step {
        title: "install rustup's nightly with the source of core".to_owned(),
        lasts: "up to 2 min",
        needs: Needs::Anybody,
        variables: Vec::new(),
        words: words(&[
            "rustup",
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
            "--component",
            "clippy",
        ]),
    }
}

/// Upstream's own binary, since a build from source needs exactly the LLVM of the nightly.
fn linker_from_release(root: &str) -> [Step; 2] {
    let package = format!("bpf-linker@{}", linker::VERSION);
    let step = |title, lasts, command: &[&str]| Step {
        title,
        lasts,
        needs: Needs::Anybody,
        variables: Vec::new(),
        words: words(command),
    };
    let install = ["cargo", "install", "--locked", "cargo-binstall"];
    let binstall = [
        "cargo",
        "binstall",
        "--no-confirm",
        "--root",
        root,
        &package,
    ];
    [
        step("install cargo-binstall".to_owned(), "up to 5 min", &install),
        step(format!("install {package}"), "up to 1 min", &binstall),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::tools::samples::{CNI, NFT};

    fn lines(missing: &Missing, system: System) -> Vec<String> {
        let plan = Plan::new(missing, system, Path::new("/cache"));
        plan.steps
            .iter()
            .map(|step| process::line(&step.command()))
            .collect()
    }

    fn everything() -> Missing {
        Missing {
            compiler: true,
            linker: true,
            tools: vec![NFT, CNI[0], CNI[1]],
        }
    }

    #[test]
    fn debian_12_gets_compiler_and_linker_that_fit_each_other() {
        assert_eq!(
            lines(&everything(), System::Bookworm),
            [
                "DEBIAN_FRONTEND=noninteractive apt-get update -q",
                "DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
                 nftables containernetworking-plugins rustc-web rust-web-src rust-web-clippy \
                 llvm-22-dev libpolly-22-dev libzstd-dev zlib1g-dev g++",
                "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker@0.13.0 --locked \
                 --no-default-features --features llvm-22 --root /cache/bpf-linker-0.13.0",
            ]
        );
    }

    #[test]
    fn elsewhere_the_compiler_is_a_nightly() {
        assert_eq!(
            lines(&everything(), System::Apt),
            [
                "DEBIAN_FRONTEND=noninteractive apt-get update -q",
                "DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
                 nftables containernetworking-plugins",
                "rustup toolchain install nightly --profile minimal --component rust-src \
                 --component clippy",
                "cargo install --locked cargo-binstall",
                "cargo binstall --no-confirm --root /cache/bpf-linker-0.13.0 bpf-linker@0.13.0",
            ]
        );
    }

    #[test]
    fn package_lists_are_fetched_only_for_packages() {
        let missing = Missing {
            compiler: true,
            ..Missing::default()
        };
        let commands = lines(&missing, System::Apt);
        assert_eq!(commands.len(), 1, "{commands:?}");
        assert!(Plan::new(&missing, System::Apt, Path::new("/cache")).possible(false));
    }

    #[test]
    fn without_root_the_commands_are_printed_with_sudo() {
        let missing = Missing {
            tools: vec![NFT],
            ..Missing::default()
        };
        let plan = Plan::new(&missing, System::Bookworm, Path::new("/cache"));
        assert!(plan.possible(true));
        assert!(!plan.possible(false));
        assert_eq!(
            plan.instructions(),
            "# fetch the package lists (up to 1 min)\n\
             sudo DEBIAN_FRONTEND=noninteractive apt-get update -q\n\
             # install packages (up to 5 min)\n\
             sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
             nftables"
        );
    }

    #[test]
    fn on_an_unknown_system_nothing_is_run() {
        let plan = Plan::new(&everything(), System::Unknown, Path::new("/cache"));
        assert!(!plan.possible(true));
        let text = plan.instructions();
        assert!(text.contains("#   nft (nftables)"), "{text}");
        assert!(text.contains("rustup toolchain install nightly"), "{text}");
        assert!(!text.contains("apt-get"), "{text}");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            everything().to_string(),
            "a Rust compiler for BPF, bpf-linker 0.13.0, nft, bridge, host-local"
        );
        assert!(Missing::default().is_empty());
    }
}
