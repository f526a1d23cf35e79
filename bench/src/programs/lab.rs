//! Programs in the kernel with their maps filled, and the clock that times a run.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use twill_abi::maps::MAPS;
use twill_abi::{Program, Reason, counter_index};
use twill_testbed::command;

use super::branch::{Branch, Device};
use super::context::context;
use super::scene::{NEXT_MAC, OWN_UNDERLAY, PORT, Scene, UPLINK_MAC, VNI, underlay};
use super::tables;
use crate::stats::float;

/// Interface indices of the devices that packets are on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Devices {
    pub(super) uplink: u32,
    pub(super) overlay: u32,
    pub(super) veth: u32,
}

impl Devices {
    /// Makes them in the namespace that the calling thread is in.
    pub(crate) fn make() -> Result<Self> {
        let [uplink_mac, next_mac] = [UPLINK_MAC, NEXT_MAC].map(twill_testbed::world::mac_text);
        let peer = underlay(1);
        let lines = format!(
            "ip link add eth0 address {uplink_mac} type veth peer name wire
             ip link set eth0 up
             ip link set wire up
             ip address add {OWN_UNDERLAY}/15 dev eth0
             ip neighbour add {peer} lladdr {next_mac} dev eth0 nud permanent
             ip link add flannel.1 mtu 1450 type vxlan id {VNI} local {OWN_UNDERLAY} dev eth0 dstport {PORT} nolearning
             ip link set flannel.1 up
             ip link add veth0 type veth peer name pod
             ip link set veth0 up"
        );
        for line in lines.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            command::run(&mut command::command(&words)?)?;
        }
        // Without it the kernel tells programs no next hop.
        let forward = "/proc/sys/net/ipv4/ip_forward";
        std::fs::write(forward, "1").with_context(|| format!("write {forward}"))?;
        let index = |name: &str| if_nametoindex(name).with_context(|| format!("index of {name}"));
        Ok(Self {
            uplink: index("eth0")?,
            overlay: index("flannel.1")?,
            veth: index("veth0")?,
        })
    }

    fn index(self, device: Device) -> u32 {
        match device {
            Device::Uplink => self.uplink,
            Device::Overlay => self.overlay,
            Device::Veth => self.veth,
        }
    }
}

/// An object in the kernel, its maps filled for a scene.
pub(crate) struct Lab {
    ebpf: Ebpf,
    scene: Scene,
    devices: Devices,
}

impl Lab {
    pub(crate) fn open(object: &[u8], scene: Scene, devices: Devices) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for map in MAPS {
            if let Some(entries) = tables::entries(map.name, scene) {
                loader.map_max_entries(map.name, entries);
            }
        }
        let mut ebpf = loader.load(object).context("load the object")?;
        for (name, program) in ebpf.programs_mut() {
            // The guard's other form, for old kernels, is not measured.
            let loaded = if let Ok(program) = <&mut SchedClassifier>::try_from(&mut *program) {
                program.load()
            } else if name == Program::Guard.label() {
                <&mut Xdp>::try_from(program)?.load()
            } else {
                continue;
            };
            loaded.with_context(|| format!("load {name}"))?;
        }
        tables::fill(&mut ebpf, scene, devices).context("fill the maps")?;
        Ok(Self {
            ebpf,
            scene,
            devices,
        })
    }

    /// Times of so many runs of a branch, nanoseconds. That another branch was taken in any
    /// of them is an error.
    pub(super) fn time(&mut self, branch: Branch, runs: usize) -> Result<Vec<f64>> {
        tables::prepare(&mut self.ebpf, branch, self.devices)?;
        let packets = branch.packets(self.scene.leases);
        let came_by = branch
            .came_by()
            .map_or(0, |device| self.devices.index(device));
        let context = context(self.devices.index(branch.device()), came_by, branch.mark());
        let before = self.counted(branch.counter())?;
        let mut times = Vec::with_capacity(runs);
        for packet in packets.iter().cycle().take(runs) {
            tables::forget(&mut self.ebpf, branch, self.devices)?;
            let options = TestRunOptions {
                data_in: Some(packet),
                ..TestRunOptions::default()
            };
            let result = if branch.program() == Program::Guard {
                self.guard()?.test_run(options)
            } else {
                self.classifier(branch.program())?.test_run(TestRunOptions {
                    ctx_in: Some(&context),
                    ..options
                })
            };
            let result = result.with_context(|| format!("run {branch}"))?;
            times.push(float(u64::try_from(result.duration.as_nanos())?));
        }
        self.check(branch, runs as u64, &before)?;
        Ok(times)
    }

    /// Leases of other nodes.
    pub(crate) fn leases(&self) -> u32 {
        self.scene.leases
    }

    /// The maps as the guard wants them, where it drops strangers.
    pub(crate) fn prepare_guard(&mut self) -> Result<()> {
        tables::prepare(&mut self.ebpf, Branch::GuardStranger, self.devices)
    }

    /// A TC program.
    pub(crate) fn classifier(&mut self, program: Program) -> Result<&mut SchedClassifier> {
        self.program(program)
    }

    /// The guard at XDP.
    pub(crate) fn guard(&mut self) -> Result<&mut Xdp> {
        self.program(Program::Guard)
    }

    fn program<'a, T>(&'a mut self, program: Program) -> Result<T>
    where
        T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
    {
        let name = program.label();
        let program = self.ebpf.program_mut(name);
        let program = program.with_context(|| format!("the object has no program {name}"))?;
        T::try_from(program).with_context(|| format!("{name} is a program of another kind"))
    }

    /// Packets that a program counted, by reason.
    pub(crate) fn counted(&self, program: Program) -> Result<BTreeMap<Reason, u64>> {
        let counters = tables::counters(&self.ebpf)?;
        let mut counted = BTreeMap::new();
        for &reason in Reason::ALL {
            let values = counters.get(&counter_index(program, reason), 0)?;
            counted.insert(reason, values.iter().map(|value| value.packets).sum());
        }
        Ok(counted)
    }

    fn check(&self, branch: Branch, runs: u64, before: &BTreeMap<Reason, u64>) -> Result<()> {
        let mut now = self.counted(branch.counter())?;
        now.retain(|reason, count| {
            *count -= before.get(reason).copied().unwrap_or_default();
            *count > 0
        });
        if branch.is_silent() {
            ensure!(
                now.is_empty(),
                "{branch} counts nothing, and counted {now:?}"
            );
            return Ok(());
        }
        let wanted = branch.reason();
        if now.get(&wanted) == Some(&runs) {
            let others = now.keys().filter(|reason| {
                !matches!(reason, Reason::Learned | Reason::Fast) && **reason != wanted
            });
            ensure!(
                others.count() == 0,
                "other branches were taken as well: {now:?}"
            );
            return Ok(());
        }
        bail!(
            "another branch was taken: {} of {} was to count {runs} packets, and counted were {now:?}",
            wanted.label(),
            branch.program().label()
        )
    }
}
