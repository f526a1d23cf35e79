//! One guest: QEMU without acceleration, with a deadline, gone when this process is.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::guest;
use super::report::Report;
use super::store::Stored;
use crate::{console, process};

/// Memory of a guest, MiB.
const MEMORY: &str = "1536";
/// Processors of a guest: more than one, so that per-CPU maps are real.
const PROCESSORS: &str = "2";
/// Both in one thread of QEMU, by turns. In a thread each, QEMU 7.2 now and then runs code that
/// the other processor has just patched, the kernel's static branches, half old and half new:
/// one boot in seventeen ended with `Oops: int3`. As two guests share two processors it costs
/// no time.
const EMULATION: &str = "tcg,thread=single";
/// The processor. With `rdrand`: a guest without it has no randomness for minutes. Without
/// `cmpxchg16b`: QEMU 7.2 with two processors now and then leaves rubbish in the flags behind
/// it, and the guest's allocator dies of that.
const PROCESSOR: &str = "qemu64,+rdrand,-cx16";
/// What the kernel is told. Mitigations cost an emulated processor more than a real one.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 mitigations=off random.trust_cpu=on";
/// Lines of the console that are shown when a guest dies.
const CONSOLE_LINES: usize = 30;

/// A running QEMU, killed when it is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A NIC of a guest: virtio-net, on a tap device that is there.
#[derive(Debug)]
pub(super) struct Nic {
    /// The tap device.
    pub(super) tap: String,
    /// The guest's MAC address.
    pub(super) mac: String,
}

/// What is booted.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    /// A name for its files.
    pub(super) name: &'a str,
    pub(super) kernel: &'a Stored,
    pub(super) initramfs: &'a Path,
    pub(super) nics: &'a [Nic],
}

/// Where a guest's console is kept.
pub(super) fn console_of(name: &str) -> PathBuf {
    guest::folder().join(format!("console-{name}.log"))
}

/// Boots a kernel, and reads what the guest says until it ends or the time is up.
///
/// To be called from a thread that lives as long as the guest: QEMU is killed with it.
pub(super) fn run(boot: &Boot<'_>, time: Duration, show: impl Fn(&str)) -> Result<Report> {
    let console = console_of(boot.name);
    let mut command = command(boot, &console);
    let line = process::line(&command);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {line}"))?;
    let mut machine = Machine(child);
    let output = machine.0.stdout.take().context("the output is not piped")?;
    let (sender, lines) = channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { return };
            if sender
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    let mut report = Report::default();
    let deadline = Instant::now() + time;
    let late = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(text) = report.read(&line)? {
                    show(&text);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => {
                break Some(format!("not done within {} s", time.as_secs()));
            }
        }
    };
    drop(machine);
    // It ends with the pipe, which ended with QEMU.
    drop(reader.join());
    let why = late.unwrap_or_else(|| "the guest died".to_owned());
    report.finish(&boot.kernel.release, &why, || end_of(&console));
    Ok(report)
}

/// The kernel kills the program when the thread that started it is gone, however it went.
fn dying_with_its_thread(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

fn command(boot: &Boot<'_>, console: &Path) -> Command {
    let mut command = dying_with_its_thread("qemu-system-x86_64");
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-accel", EMULATION, "-cpu", PROCESSOR])
        .args(["-smp", PROCESSORS, "-m", MEMORY])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(&boot.kernel.image)
        .arg("-initrd")
        .arg(boot.initramfs)
        .args(["-append", COMMAND_LINE]);
    for Nic { tap, mac } in boot.nics {
        command
            .arg("-netdev")
            .arg(format!("tap,id={tap},ifname={tap},script=no,downscript=no"))
            .arg("-device")
            // Without the ROM that boots from networks.
            .arg(format!("virtio-net-pci,netdev={tap},mac={mac},romfile="));
    }
    command
}

fn end_of(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    console::last_lines(&String::from_utf8_lossy(&bytes), CONSOLE_LINES)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_guest_ends_with_the_thread_that_started_it() {
        let start = || {
            let mut command = dying_with_its_thread("sh");
            // It says when it is there: only then is the kernel told to kill it.
            let mut child = command
                .args(["-c", "echo here; exec sleep 600"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let output = child.stdout.take().unwrap();
            BufReader::new(output).read_line(&mut line).unwrap();
            assert_eq!(line, "here\n");
            child
        };
        let mut child = thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
