//! The bench as people run it: it tells slow from fast, says what it could not measure, and
//! leaves nothing behind. `cargo xtask test bench`.

#![forbid(unsafe_code)]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a harness that cannot do its work fails the test"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use twill_testbed::wait::wait_until;

/// One bench at a time: the second would be refused.
static TURN: Mutex<()> = Mutex::new(());

/// A turn, or nothing where the tier need not run; says so.
fn turn() -> Option<MutexGuard<'static, ()>> {
    if std::env::var_os("TWILL_TIERS").is_none_or(|value| value.is_empty()) {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        // Written past libtest's capture: a test that was left out must be seen.
        let told = "left out, it needs root and the BPF object: cargo xtask test bench";
        let mut to = std::io::stderr();
        to.write_all(format!("{test}: {told}\n").as_bytes())
            .unwrap();
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn bench(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twill-bench"));
    command.args(words);
    command
}

/// Runs a small bench to its end and gives its document.
fn run(words: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    let output = bench(words).arg("--json").arg(&json).output().unwrap();
    let text = fs::read_to_string(&json).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, serde_json::from_str(&text).unwrap())
}

/// The ratio of a mode against another.
fn ratio<'a>(document: &'a Value, mode: &str, against: &str) -> Option<&'a Value> {
    let ratios = document["ratios"].as_array().unwrap();
    let mut of_mode = ratios.iter().filter(|ratio| ratio["mode"] == mode);
    of_mode.find(|ratio| ratio["against"] == against)
}

/// Everything that a process with this number has made and not removed.
fn left_behind(pid: u32) -> Vec<String> {
    let beginning = format!("tw-{pid}-");
    let folders = ["/run/netns", "/run/twill-testbed", "/sys/fs/bpf/twill"];
    let entries = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok());
    let names = entries.flatten().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&beginning)).collect()
}

#[test]
fn a_slowed_program_is_seen() {
    let Some(_turn) = turn() else { return };
    let (output, document) = run(&[
        "--cases=udp_64",
        "--shapes=gso",
        "--targets=pod",
        "--subjects=kernel,slowed",
        "--rounds=10",
        "--window=0.3",
    ]);
    assert!(output.status.success(), "{output:?}");
    let slowed = ratio(&document, "slowed", "kernel").expect("a ratio");
    let high = slowed["high"].as_f64().unwrap();
    assert!(high < 1.0, "{slowed}");
    assert_eq!(slowed["no_difference"], false);
    assert_eq!(document["samples"].as_array().unwrap().len(), 20);
    // What was seen is told to people as well.
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("slowed"), "{text}");
}

#[test]
fn ten_times_more_flows_than_room_are_not_slower_than_in_the_kernel() {
    let Some(_turn) = turn() else { return };
    let (output, document) = run(&[
        "--cases=udp_rr_640",
        "--shapes=gso",
        "--targets=pod",
        "--subjects=kernel,permit,direct",
        "--max-permits=64",
        "--rounds=8",
        "--window=0.4",
    ]);
    assert!(output.status.success(), "{output:?}");
    for mode in ["permit", "direct"] {
        let found = ratio(&document, mode, "kernel").expect("a ratio");
        let high = found["high"].as_f64().unwrap();
        // As fast, as far as eight rounds can tell: exactly as fast lies outside of one interval
        // in twenty.
        assert!(high >= 0.95, "{found}");
    }
}

#[test]
fn twill_is_measured_on_its_fast_path_or_not_at_all() {
    let Some(_turn) = turn() else { return };
    let (_, document) = run(&[
        "--cases=tcp_rr",
        "--shapes=gso",
        "--subjects=kernel,permit",
        "--rounds=6",
        "--window=0.3",
    ]);
    let samples = document["samples"].as_array().unwrap();
    let permit: Vec<_> = samples
        .iter()
        .filter(|sample| sample["subject"] == "permit")
        .collect();
    assert_eq!(permit.len(), 12, "{document}");
    for sample in permit {
        assert_eq!(sample["went"]["way"], "past_the_stack", "{sample}");
        let share = sample["went"]["share"].as_f64().unwrap_or_default();
        assert_eq!(sample["value"].is_number(), share >= 0.5, "{sample}");
        assert!(share >= 0.5, "{sample}");
    }
    assert!(ratio(&document, "permit", "kernel").is_some());
    let agents = document["subjects"][1]["agents"].as_array().unwrap();
    assert_eq!(agents.len(), 2);
    assert!(agents[0]["memory_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn what_cannot_be_measured_is_told_and_the_rest_is_measured() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    let html = folder.path().join("run.html");
    let output = bench(&[
        "--cases=tcp_rr",
        "--shapes=gso",
        "--targets=pod",
        "--subjects=host,kernel,permit",
        "--rounds=2",
        "--window=0.1",
    ])
    .arg("--json")
    .arg(&json)
    .arg("--html")
    .arg(&html)
    .env("TWILL_BIN_DIR", "/nonexistent")
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let document: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert!(ratio(&document, "kernel", "host").is_some());
    assert!(ratio(&document, "permit", "kernel").is_none());
    let problem = &document["problems"][0];
    assert_eq!(problem["subject"], "permit");
    assert!(problem["reason"].as_str().unwrap().contains("/nonexistent"));
    let html = fs::read_to_string(&html).unwrap();
    assert!(html.contains("/nonexistent") && html.contains("<svg"));
}

#[test]
fn every_branch_of_the_programs_is_timed_and_leases_cost_nothing() {
    let Some(_turn) = turn() else { return };
    let (output, document) = run(&["--programs", "--rounds=10"]);
    assert!(output.status.success(), "{output:?}");
    let growth = document["growth"].as_array().unwrap();
    assert!(growth.len() > 15, "{document}");
    for branch in growth {
        let name = branch["branch"].as_str().unwrap();
        if name.ends_with("spread") {
            // To a thousand nodes in turn: that is about caches, not about leases.
            continue;
        }
        let before = branch["before_ns"].as_f64().unwrap();
        let more = branch["more_ns"]["low"].as_f64().unwrap();
        // A twentieth, or less than a clock of nanoseconds tells apart.
        assert!(more <= (before / 20.0).max(10.0), "{branch}");
    }
    let verifier = document["verifier"].as_array().unwrap();
    assert!(
        verifier
            .iter()
            .all(|one| one["processed"].as_u64() > Some(0))
    );
}

#[test]
fn growth_is_measured_in_every_direction() {
    let Some(_turn) = turn() else { return };
    let (output, document) = run(&["--growth", "--quick", "--rounds=2", "--window=0.3"]);
    assert!(output.status.success(), "{output:?}");
    let branches = document["programs"]["branches"].as_array().unwrap();
    for (key, size) in [("leases", 1000), ("permits", 10_000)] {
        let mut grown = branches.iter();
        assert!(
            grown.any(|cost| cost["scene"][key] == size && cost["cost_ns"].is_object()),
            "{document}"
        );
    }
    let rates = document["rates"].as_array().unwrap();
    for (axis, size, subjects) in [
        ("leases", 1000, &["kernel", "permit"][..]),
        ("permits", 10_000, &["permit"]),
        ("services", 1000, &["kernel", "permit"]),
    ] {
        for &subject in subjects {
            let mut rates = rates.iter();
            let found = rates.find(|rate| {
                (&rate["axis"], &rate["size"], &rate["subject"])
                    == (&axis.into(), &size.into(), &subject.into())
            });
            let found = found.unwrap_or_else(|| panic!("{subject} {axis}: {document}"));
            assert!(found["value"]["median"].as_f64() > Some(0.0), "{found}");
            assert!(found["cpu_ns"]["median"].as_f64() > Some(0.0), "{found}");
            assert!(found["beside_smallest"]["median"].is_number(), "{found}");
        }
    }
    let twill = &document["convergence"][0];
    assert_eq!(twill["leases"], 1000);
    let (start, change) = (&twill["start_s"], &twill["change_s"]);
    // A lease more is not a start more, and takes its time.
    assert!(change.as_f64() > Some(0.0), "{twill}");
    assert!(change.as_f64() < start.as_f64(), "{twill}");
    assert!(twill["memory_peak_bytes"].as_u64() > Some(0), "{twill}");
}

#[test]
fn the_guard_is_held_against_rules_and_a_flow_against_a_flood() {
    let Some(_turn) = turn() else { return };
    let (output, document) = run(&["--guard", "--quick", "--rounds=2"]);
    assert!(output.status.success(), "{output:?}");
    let drops = document["drops"].as_array().unwrap();
    assert_eq!(drops.len(), 6, "{document}");
    for way in drops {
        assert!(way["per_second"]["median"].as_f64() > Some(0.0), "{way}");
    }
    // Each place of the guard beside each rule.
    assert_eq!(document["beside"].as_array().unwrap().len(), 6);
    let flows = document["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 4, "{document}");
    for flow in flows {
        assert!(flow["kept"]["median"].as_f64() > Some(0.0), "{flow}");
        assert!(flow["forged"].as_u64() > Some(0), "{flow}");
    }
}

struct Running(Child);

impl Running {
    fn start() -> Self {
        let mut command = bench(&["--quick", "--subjects=host,kernel,permit", "--rounds=50"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn wait_until_it_measures(&self) {
        let pid = self.0.id();
        // Two nodes of each subject, pods, and the lease server's host.
        wait_until(
            "the bench has built its nodes",
            Duration::from_mins(1),
            || left_behind(pid).iter().any(|name| name.contains("-2-b-1")),
        )
        .unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already, if all is well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let Some(_turn) = turn() else { return };
    let mut running = Running::start();
    let pid = running.0.id();
    running.wait_until_it_measures();
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
    let status = running.0.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{status:?}");
    assert_eq!(left_behind(pid), Vec::<String>::new());
}

#[test]
fn a_second_bench_is_refused_and_the_first_goes_on() {
    let Some(_turn) = turn() else { return };
    let mut running = Running::start();
    running.wait_until_it_measures();
    let second = bench(&["--quick"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(told.contains(&running.0.id().to_string()), "{told}");
    assert!(running.0.try_wait().unwrap().is_none());
    kill(Pid::from_raw(running.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(130));
}

#[test]
fn without_root_there_is_one_sentence() {
    let Some(_turn) = turn() else { return };
    // Somewhere that nobody may read too.
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(folder.path());
    let program = folder.path().join("twill-bench");
    fs::copy(env!("CARGO_BIN_EXE_twill-bench"), &program).unwrap();
    open(&program);
    let output = Command::new(&program).uid(65_534).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains("run it as root"), "{told}");
}
