//! Bringing the guest up and switching it off.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount as mount_file_system};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, sync};

/// Kind and place of every file system.
const FILE_SYSTEMS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", "/sys/fs/bpf"),
];

/// Mounts what every program expects.
pub(crate) fn mount() -> Result<()> {
    for (kind, place) in FILE_SYSTEMS {
        // sysfs brings its own folders and takes no others.
        if !place.starts_with("/sys/") {
            fs::create_dir_all(place).with_context(|| format!("make {place}"))?;
        }
        let mounted = mount_file_system(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        );
        match mounted {
            // A kernel may have put it there already.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("mount {kind} on {place}")),
        }
    }
    Ok(())
}

/// Where programs are: the kernel gives its first process no such variable.
const PATH: &str = "/usr/bin";
/// Names of a process's own files, which devtmpfs does not have.
const OWN_FILES: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Limits, loopback and what else a distribution's start would have done.
pub(crate) fn set_up() -> Result<()> {
    for (name, target) in OWN_FILES {
        symlink(target, name).with_context(|| format!("make {name}"))?;
    }
    // Kernels before 5.11 account maps to it.
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)
        .context("lift the limit on locked memory")?;
    run(&["ip", "link", "set", "lo", "up"])
}

/// Loads a module and what it depends on; one that is built in is no error.
pub(crate) fn load_module(name: &str) -> Result<()> {
    run(&["modprobe", name])
}

/// Runs a program to its end, quietly unless it fails.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let Output { status, stderr, .. } = output(words)?;
    let line = words.join(" ");
    ensure!(
        status.success(),
        "{line}: {status}: {}",
        String::from_utf8_lossy(&stderr).trim()
    );
    Ok(())
}

fn output(words: &[&str]) -> Result<Output> {
    let [program, arguments @ ..] = words else {
        bail!("no program")
    };
    let output = Command::new(program).args(arguments).output();
    output.with_context(|| format!("start {program}"))
}

/// What a program printed on both outputs, whatever its end.
pub(crate) fn printed(words: &[&str]) -> Result<String> {
    let Output { stdout, stderr, .. } = output(words)?;
    Ok([stdout, stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat())
}

/// The kernel's release.
pub(crate) fn release() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the release")?;
    Ok(text.trim().to_owned())
}

/// Starts this program again with `argument` and reaps until that process ends.
pub(crate) fn run_to_its_end(argument: &str) -> Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    let child = Command::new(program)
        .arg(argument)
        .env("PATH", PATH)
        .spawn()
        .context("start the work")?;
    let worker = Pid::from_raw(i32::try_from(child.id()).context("the process id is no pid")?);
    loop {
        match waitpid(Pid::from_raw(-1), None) {
            Ok(status) if status.pid() == Some(worker) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for the work"),
        }
    }
}

/// Writes to the console.
pub(crate) fn log(text: &str) {
    // Nobody is left to tell when the console cannot be written.
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        // Nobody is left to tell when the console cannot be written.
        drop(writeln!(console, "twill-guest: {text}"));
    }
}

/// Switches the guest off.
pub(crate) fn switch_off() -> Result<()> {
    sync();
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        Err(error) => log(&format!("switch off: {error}")),
    }
    // The end of process 1 is a panic; the host's deadline is the better end.
    loop {
        thread::sleep(Duration::from_mins(1));
    }
}
