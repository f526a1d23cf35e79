//! `status.json`: what the agent says of itself, for `twillctl status` and for people.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{FileError, atomic, read};
use twill_datapath::attach::Attachment;
use twill_datapath::guard::GuardPlace;

/// Everything in `status.json`. Fields are added, never renamed.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Status {
    /// Version of twilld.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When that process started, in clock ticks since the machine did (field 22 of
    /// `/proc/<pid>/stat`): with `pid`, it names one process for ever.
    pub pid_started: u64,
    /// When it started, seconds since 1970.
    pub started: u64,
    /// Whether it was stopped in good order.
    pub stopped: bool,
    /// Name of the instance.
    pub instance: String,
    /// `bpf` or `kernel`: who carries packets.
    pub mode: String,
    /// Why not BPF.
    pub reason: Option<String>,
    /// Whether the node is as it should be.
    pub ready: bool,
    /// Version of the ABI between programs and agent.
    pub abi_version: u32,
    /// Folder of the pins.
    pub pins: PathBuf,
    /// `Backend.Type`; empty from a twilld that knew only vxlan.
    pub backend: String,
    /// Name of the vxlan device; empty where the backend has none, as what follows of it.
    pub device: String,
    /// Its MAC address.
    pub mac: String,
    /// VNI.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// MTU of the overlay in bytes.
    pub mtu: u32,
    /// Name of the underlay interface.
    pub uplink: String,
    /// Its address.
    pub uplink_address: String,
    /// The address that peers send to.
    pub public_ip: String,
    /// The own subnet.
    pub subnet: String,
    /// The whole overlay.
    pub network: String,
    /// Other nodes.
    pub peers: usize,
    /// The lease store.
    pub store: StoreStatus,
    /// Which flows may skip the host's stack.
    pub fast_path: FastPathStatus,
    /// Routing rules that leave packets to other nodes to the kernel, in words.
    pub routing: Vec<String>,
    /// What becomes of VXLAN that no peer sent.
    pub guard: GuardStatus,
    /// The pods of this node.
    pub pods: Vec<PodStatus>,
    /// Programs that are attached.
    pub attached: Vec<Attachment>,
    /// Errors since the start, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Errors of the last pass, in words.
    pub failing: Vec<String>,
    /// What somebody has to act on.
    pub conditions: Vec<ConditionStatus>,
    /// Leases that contradict others or cannot be used, in words.
    pub conflicts: Vec<String>,
    /// Leases for which the maps had no room: the kernel carries their packets.
    pub unmapped: Vec<String>,
}

/// Which flows may skip the host's stack, by the agent's word.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct FastPathStatus {
    /// `--fast-path`.
    pub wanted: String,
    /// What the agent told the programs.
    pub mode: String,
    /// Whether TCP flows may have permits.
    pub tcp: bool,
    /// Why it is off, or off for TCP.
    pub reason: Option<String>,
    /// The bit of the packet mark that says "accepted as established", as `0x1000`.
    pub mark_bit: String,
    /// How long an acceptance is remembered.
    pub permit_milliseconds: u64,
    /// Addresses whose flows never get a permit.
    pub exclude: Vec<String>,
}

/// What becomes of VXLAN that no peer sent.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct GuardStatus {
    /// `--guard`.
    pub wanted: String,
    /// Whether it drops now.
    pub drops: bool,
    /// Why it does not drop though it should.
    pub waits: Option<String>,
    /// Pods that could speak to the nodes' VXLAN port, though they should not, and why.
    pub unwatched: Vec<String>,
    /// Where it is.
    #[serde(flatten)]
    pub place: GuardPlace,
}

/// Something that somebody has to act on.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ConditionStatus {
    /// One of a closed set, the label of the metric `twill_condition`.
    pub kind: String,
    /// What is so, and what to do: one sentence.
    pub text: String,
    /// Whether the node is not ready because of it.
    pub not_ready: bool,
}

/// A pod of this node, as far as its packets are concerned.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct PodStatus {
    /// Its host-side veth.
    pub interface: String,
    /// Index of that.
    pub ifindex: u32,
    /// `bridge` or `routed`.
    pub wiring: String,
    /// Whether both ends of the veth are up.
    pub up: bool,
    /// Why its packets are never fast.
    pub never_fast: Option<String>,
}

/// What the agent knows of its lease store.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct StoreStatus {
    /// Where it is.
    pub address: String,
    /// `connected`, or what is wrong.
    pub state: String,
    /// When it last answered, seconds since 1970.
    pub last_contact: Option<u64>,
    /// Whether the list of leases was complete at least once since the start.
    pub complete: bool,
}

/// What is known about the process that wrote a status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Liveness {
    /// It runs.
    Alive,
    /// It was stopped in good order.
    Stopped,
    /// It is gone without a word.
    Dead,
}

/// Where an instance's status is.
pub fn path(run_directory: &Path, instance: &str) -> PathBuf {
    run_directory.join(instance).join("status.json")
}

/// Writes the status.
pub fn write(path: &Path, status: &Status) -> Result<(), FileError> {
    let mut text = serde_json::to_string_pretty(status).map_err(|source| FileError::Write {
        path: path.to_owned(),
        source: source.into(),
    })?;
    text.push('\n');
    atomic::replace(path, &text)
}

/// Reads the status; `None` if there is no such file.
pub fn read(path: &Path) -> Result<Option<Status>, FileError> {
    read::if_there(path, |text| {
        parse(text).map_err(|error| format!("{error}; twilld writes it anew"))
    })
}

/// Reads its text: an object, and nothing else, for serde would take a list for a status as well.
pub(super) fn parse(text: &[u8]) -> Result<Status, serde_json::Error> {
    let fields: Map<String, Value> = serde_json::from_slice(text)?;
    serde_json::from_value(Value::Object(fields))
}

impl Status {
    /// Whether the process that wrote it still runs.
    pub fn liveness(&self) -> Liveness {
        if process_started(self.pid).is_some_and(|started| started == self.pid_started) {
            Liveness::Alive
        } else if self.stopped {
            Liveness::Stopped
        } else {
            Liveness::Dead
        }
    }
}

/// When a process started, in clock ticks since the machine did; `None` if it does not run.
pub fn process_started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    start_time(&stat)
}

/// Field 22 of `/proc/<pid>/stat`: the second one, the command's name in parentheses, may
/// hold spaces and parentheses itself (`proc_pid_stat(5)`).
pub(super) fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    // A process that has ended and whose parent has not asked yet does nothing any more.
    let ended = matches!(fields.next()?, "Z" | "X");
    let started = fields.nth(18)?.parse().ok()?;
    (!ended).then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(start_time(&format!("7 (twilld) {fields}")), Some(4242));
        assert_eq!(start_time(&format!("7 (a ) (b) {fields}")), Some(4242));
        let zombie = fields.replacen('S', "Z", 1);
        assert_eq!(start_time(&format!("7 (twilld) {zombie}")), None);
        for bad in ["", "7", "7 (x", "7 (x) S 1", "7 (x) S a b"] {
            assert_eq!(start_time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = path(root.path(), "default");
        assert_eq!(read(&path).unwrap(), None);
        let status = Status {
            pid: std::process::id(),
            pid_started: process_started(std::process::id()).unwrap(),
            reason: Some("no bpffs".to_owned()),
            ..Status::default()
        };
        write(&path, &status).unwrap();
        let found = read(&path).unwrap().unwrap();
        assert_eq!(found, status);
        assert_eq!(found.liveness(), Liveness::Alive);
    }

    #[test]
    fn another_process_of_the_same_number_is_not_the_agent() {
        let status = Status {
            pid: std::process::id(),
            pid_started: 1,
            ..Status::default()
        };
        assert_eq!(status.liveness(), Liveness::Dead);
        let stopped = Status {
            stopped: true,
            ..status
        };
        assert_eq!(stopped.liveness(), Liveness::Stopped);
    }

    #[test]
    fn rubbish_names_the_file() {
        let root = tempfile::tempdir().unwrap();
        let path = path(root.path(), "x");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for text in ["", "[]", "{\"pid\": \"x\"}", "{"] {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("status.json"), "{error}");
        }
    }
}
