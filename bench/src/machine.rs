//! What a run was made on: a figure without its machine is worth nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};
use twill_testbed::daemon::binary;

/// The machine, and the versions of what ran on it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Kernel build.
    pub kernel_build: String,
    /// Processor, as `/proc/cpuinfo` calls it.
    pub cpu: String,
    /// How many CPUs this process may use.
    pub cpus: usize,
    /// Whether a hypervisor is under it.
    pub is_virtual: bool,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Programs and their versions.
    pub versions: Vec<Version>,
}

/// A program and its version.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Version {
    /// The program.
    pub program: String,
    /// What it says of itself.
    pub version: String,
}

impl Machine {
    /// This one.
    pub fn here(flanneld: Option<&Path>) -> Result<Self> {
        let name = uname().context("ask for the kernel's name")?;
        let info = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let memory = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        let mut versions = vec![Version {
            program: "twill-bench".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }];
        versions.extend(binary("twilld").ok().and_then(|path| version_of(&path)));
        versions.extend(flanneld.and_then(version_of));
        for program in ["iptables", "nft", "ip"] {
            versions.extend(version_of(Path::new(program)));
        }
        Ok(Self {
            kernel: name.release().to_string_lossy().into_owned(),
            kernel_build: name.version().to_string_lossy().into_owned(),
            cpu: value(&info, "model name").unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            is_virtual: value(&info, "flags").is_some_and(|flags| {
                let mut flags = flags.split_whitespace();
                flags.any(|flag| flag == "hypervisor")
            }),
            memory_bytes: value(&memory, "MemTotal")
                .and_then(|text| text.split_whitespace().next())
                .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
                .map_or(0, |kilobytes| kilobytes * 1024),
            versions,
        })
    }
}

/// The value of the first line `key : value`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(name, _)| name.trim() == key)?;
    Some(value.trim())
}

/// The first line of what a program says about its version; none of one that says nothing.
fn version_of(program: &Path) -> Option<Version> {
    // Every program but `ip` knows the long form, and flanneld only that.
    let ask = if program == Path::new("ip") {
        "-V"
    } else {
        "--version"
    };
    let output = Command::new(program).arg(ask).output().ok()?;
    // flanneld writes it to standard error.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    let name = program.file_name()?.to_string_lossy().into_owned();
    Some(Version {
        program: name,
        version: line.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_cpus() {
        let machine = Machine::here(None).unwrap();
        assert!(!machine.kernel.is_empty());
        assert!(machine.cpus > 0 && machine.memory_bytes > 0);
    }

    #[test]
    fn values_are_found_by_their_whole_key() {
        let text = "model\t\t: 17\nmodel name\t: A CPU\n";
        assert_eq!(value(text, "model name"), Some("A CPU"));
        assert_eq!(value(text, "flags"), None);
    }
}
