//! What programs load, as their ELF files say.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process;

/// Where Debian has the libraries of this architecture.
pub(super) fn library_folder() -> String {
    format!("/usr/lib/{}-linux-gnu", env::consts::ARCH)
}

/// The names of the libraries that a program or library asks for, and the program that loads it.
pub(super) fn needed(file: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("readelf");
    command.args(["--wide", "--dynamic", "--program-headers"]);
    Ok(parse(&process::stdout(command.arg(file))?))
}

fn parse(text: &str) -> Vec<String> {
    let between = |line: &str, begin: &str| {
        let (_, rest) = line.split_once(begin)?;
        Some(rest.split_once(']')?.0.to_owned())
    };
    let lines = text.lines();
    lines
        .filter_map(|line| {
            between(line, "(NEEDED)             Shared library: [")
                .or_else(|| between(line, "[Requesting program interpreter: "))
        })
        .collect()
}

/// Whether a file is ELF at all.
pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_read() {
        let text = "\
      [Requesting program interpreter: /lib64/ld-linux-x86-64.so.2]
 0x0000000000000001 (NEEDED)             Shared library: [libgcc_s.so.1]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x000000000000000c (INIT)               0x1000
";
        assert_eq!(
            parse(text),
            ["/lib64/ld-linux-x86-64.so.2", "libgcc_s.so.1", "libc.so.6"]
        );
    }
}
