//! A network namespace of the test's own, with an uplink, a vxlan device and the programs.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use aya::maps::{MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp, tc};
use aya::{Ebpf, EbpfLoader};
use nix::sched::{CloneFlags, CpuSet, sched_getcpu, sched_setaffinity, unshare};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use twill_abi::maps::{CONFIG, COUNTERS_MAP, MAPS, MapKind, VTEP_COUNTERS};
use twill_abi::{Counter, Program, Reason, VtepCounter, counter_index};

use super::sk_buff::SkBuff;
use super::tables::{CAPACITY, Tables};
use super::world::{
    GATEWAY, GATEWAY_MAC, NARROW_MTU, NARROW_NODE, NODE_A, NODE_B, OVERLAY_A, POD_A1, POD_MAC,
    PORT, SIDE_NODE, UNREACHABLE_NODE, UPLINK_MAC_A, UPLINK_MAC_B, UPLINK_MTU, VNI, VTEP_MAC_A,
    mac_text,
};

/// The shortest frame that `BPF_PROG_TEST_RUN` takes as IPv4, by its `EtherType`: both headers.
pub(crate) const SHORTEST: usize = 34;
/// Capacity of the tables of flows.
const LRU_CAPACITY: u32 = 1024;
/// Room that a program may add in front of or behind a packet.
const ROOM: usize = 256;

/// The uplink.
pub(crate) const UPLINK: &str = "eth0";
/// The other end of the uplink's cable.
pub(crate) const WIRE: &str = "wire";
/// The kernel's vxlan device.
pub(crate) const OVERLAY: &str = "flannel.1";
/// The host's side of our pod's veth.
pub(crate) const VETH: &str = "veth-a1";
/// The host's side of another pod's veth.
pub(crate) const OTHER_VETH: &str = "veth-a2";
/// The bridge that the host knows our pod on.
pub(crate) const BRIDGE: &str = "cni0";
/// Its address.
const BRIDGE_A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);

/// The programs in a network namespace of this thread's own; both are gone with the thread.
pub(crate) struct Lab {
    ebpf: RefCell<Ebpf>,
    /// Interface index of the uplink.
    pub(crate) uplink: u32,
    /// Interface index of the vxlan device.
    pub(crate) overlay: u32,
    /// Interface index of the veth of our pod.
    pub(crate) veth: u32,
    /// Interface index of the veth of another pod.
    pub(crate) other_veth: u32,
    counters: RefCell<BTreeMap<u32, Counter>>,
    vtep_counters: RefCell<BTreeMap<u32, VtepCounter>>,
}

/// What a program did with one packet.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// The return code as TC takes it.
    pub(crate) verdict: i32,
    /// The packet afterwards.
    pub(crate) packet: Vec<u8>,
    /// The context afterwards.
    pub(crate) context: SkBuff,
    /// Counters that moved, and by how much, by their place in the map.
    pub(crate) counted: BTreeMap<u32, Counter>,
    /// VTEP counters that moved, and by how much.
    pub(crate) counted_vteps: BTreeMap<u32, VtepCounter>,
    /// The maps afterwards.
    pub(crate) tables: Tables,
    /// `CLOCK_MONOTONIC` before and after, nanoseconds.
    pub(crate) time_ns: (u64, u64),
}

impl Lab {
    /// The lab, or nothing where the tier need not run (see [`twill_tests::required`]); says so.
    pub(crate) fn open() -> Option<Self> {
        let object = object()?;
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        build_network();

        let mut loader = EbpfLoader::new();
        for map in MAPS {
            if ![COUNTERS_MAP.name, CONFIG.name].contains(&map.name) {
                let entries = match map.kind {
                    // A small LRU map throws entries out long before it is full.
                    MapKind::LruHash => LRU_CAPACITY,
                    MapKind::Hash | MapKind::Array | MapKind::PerCpuArray | MapKind::LpmTrie => {
                        CAPACITY
                    }
                };
                loader.map_max_entries(map.name, entries);
            }
        }
        let mut ebpf = loader.load(&object).expect("load the object");
        for (name, program) in ebpf.programs_mut() {
            let loaded = match <&mut SchedClassifier>::try_from(&mut *program) {
                Ok(program) => program.load(),
                Err(_) => <&mut Xdp>::try_from(program).expect("TC or XDP").load(),
            };
            loaded.unwrap_or_else(|error| panic!("load {name}: {error}"));
        }
        Some(Self {
            ebpf: RefCell::new(ebpf),
            uplink: index_of(UPLINK),
            overlay: index_of(OVERLAY),
            veth: index_of(VETH),
            other_veth: index_of(OTHER_VETH),
            counters: RefCell::default(),
            vtep_counters: RefCell::default(),
        })
    }

    /// The named world as it is in this lab.
    pub(crate) fn tables(&self) -> Tables {
        Tables::new(self.uplink, self.overlay)
    }

    /// A program of the object.
    pub(crate) fn program(&self, program: Program) -> RefMut<'_, SchedClassifier> {
        let name = program.label();
        RefMut::map(self.ebpf.borrow_mut(), |ebpf| {
            let program = ebpf.program_mut(name);
            let program = program.unwrap_or_else(|| panic!("the object has no program {name}"));
            program.try_into().expect("a TC program")
        })
    }

    /// The object and its maps.
    pub(crate) fn ebpf(&self) -> RefMut<'_, Ebpf> {
        self.ebpf.borrow_mut()
    }

    /// Makes the maps hold exactly `tables`, and forgets what was counted.
    pub(crate) fn prepare(&self, tables: &Tables) {
        let ebpf = &mut *self.ebpf.borrow_mut();
        *self.counters.borrow_mut() = read_counters(ebpf);
        *self.vtep_counters.borrow_mut() = read_vtep_counters(ebpf);
        tables.write(ebpf);
    }

    /// Gives one packet to a program. `Err` where the kernel refuses to run it on such a
    /// packet.
    pub(crate) fn run(
        &self,
        program: Program,
        tables: &Tables,
        packet: &[u8],
        context: SkBuff,
    ) -> Result<Output, aya::programs::ProgramError> {
        self.prepare(tables);
        self.give(program, packet, context)
    }

    /// Gives one packet to a program and the maps as they are.
    pub(crate) fn give(
        &self,
        program: Program,
        packet: &[u8],
        context: SkBuff,
    ) -> Result<Output, aya::programs::ProgramError> {
        let ifindex = match (context.ifindex, program) {
            (0, Program::FromUplink | Program::ToUplink) => self.uplink,
            (0, Program::FromPod | Program::ToPod) => self.veth,
            (0, _) => self.overlay,
            (ifindex, _) => ifindex,
        };
        let ingress_ifindex = match (context.ingress_ifindex, program) {
            (0, Program::ToPod) => self.overlay,
            (ingress_ifindex, _) => ingress_ifindex,
        };
        let context = SkBuff {
            ingress_ifindex,
            ifindex,
            ..context
        };
        let mut data_out = vec![0; packet.len() + ROOM];
        let mut ctx_out = SkBuff::default().to_bytes();
        let started_ns = monotonic_ns();
        let result = self.program(program).test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut data_out),
            ctx_in: Some(&context.to_bytes()),
            ctx_out: Some(&mut ctx_out),
            ..TestRunOptions::default()
        })?;
        let time_ns = (started_ns, monotonic_ns());
        data_out.truncate(result.data_size_out as usize);
        Ok(Output {
            verdict: result.return_value.cast_signed(),
            packet: data_out,
            context: SkBuff::from_bytes(&ctx_out),
            counted: self.counted(),
            counted_vteps: self.counted_vteps(),
            tables: Tables::read(&mut self.ebpf.borrow_mut()),
            time_ns,
        })
    }

    /// Gives one frame to an XDP program: its answer, and the frame afterwards. The frame comes in
    /// by the loopback.
    pub(crate) fn give_frame(&self, name: &str, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut data_out = vec![0; frame.len() + ROOM];
        let ebpf = self.ebpf.borrow();
        let program = ebpf.program(name);
        let program = program.unwrap_or_else(|| panic!("the object has no program {name}"));
        let program: &Xdp = program.try_into().expect("an XDP program");
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut data_out),
            ..TestRunOptions::default()
        };
        let result = program
            .test_run(options)
            .unwrap_or_else(|error| panic!("run {name} on {} bytes: {error}", frame.len()));
        data_out.truncate(result.data_size_out as usize);
        (result.return_value, data_out)
    }

    /// Gives one packet to a TC program on the uplink: its verdict alone.
    pub(crate) fn verdict(&self, program: Program, packet: &[u8]) -> i32 {
        let context = SkBuff {
            ifindex: self.uplink,
            ..SkBuff::default()
        };
        let result = self.program(program).test_run(TestRunOptions {
            data_in: Some(packet),
            ctx_in: Some(&context.to_bytes()),
            ..TestRunOptions::default()
        });
        let result = result.unwrap_or_else(|error| panic!("{} bytes: {error}", packet.len()));
        result.return_value.cast_signed()
    }

    /// Changes the settings alone.
    pub(crate) fn configure(&self, tables: &Tables) {
        tables.write_config(&mut self.ebpf.borrow_mut());
    }

    /// What a program has counted since the lab was opened, by reason.
    pub(crate) fn counts(&self, program: Program) -> BTreeMap<Reason, Counter> {
        let ebpf = self.ebpf.borrow();
        let map = ebpf.map(COUNTERS_MAP.name).expect("the object has it");
        let map: PerCpuArray<&MapData, Counter> = map.try_into().expect("a per-CPU array");
        let count = |&reason: &Reason| {
            let values = map
                .get(&counter_index(program, reason), 0)
                .expect("a counter");
            let counter = Counter {
                packets: values.iter().map(|value| value.packets).sum(),
                bytes: values.iter().map(|value| value.bytes).sum(),
            };
            (counter.packets > 0).then_some((reason, counter))
        };
        Reason::ALL.iter().filter_map(count).collect()
    }

    /// Counters that moved since [`Lab::prepare`], and by how much.
    pub(crate) fn counted(&self) -> BTreeMap<u32, Counter> {
        let mut moved = read_counters(&mut self.ebpf.borrow_mut());
        moved.retain(|place, now| {
            let before = self.counters.borrow()[place];
            let changed = *now != before;
            now.packets = now.packets.wrapping_sub(before.packets);
            now.bytes = now.bytes.wrapping_sub(before.bytes);
            changed
        });
        moved
    }

    fn counted_vteps(&self) -> BTreeMap<u32, VtepCounter> {
        let mut moved = read_vtep_counters(&mut self.ebpf.borrow_mut());
        moved.retain(|place, now| {
            let before = self.vtep_counters.borrow()[place];
            let changed = *now != before;
            now.encap_packets = now.encap_packets.wrapping_sub(before.encap_packets);
            now.encap_bytes = now.encap_bytes.wrapping_sub(before.encap_bytes);
            now.uplink_packets = now.uplink_packets.wrapping_sub(before.uplink_packets);
            now.uplink_bytes = now.uplink_bytes.wrapping_sub(before.uplink_bytes);
            changed
        });
        moved
    }
}

/// The object's bytes, or nothing where the tier need not run; says so.
pub(crate) fn object() -> Option<Vec<u8>> {
    if !twill_tests::required() {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        // Written past libtest's capture: a test that was left out must be seen.
        writeln!(
            std::io::stderr(),
            "{test}: left out, it needs root and the BPF object: cargo xtask test prog-run"
        )
        .expect("write to stderr");
        return None;
    }
    let path = std::env::var_os("TWILL_BPF_OBJECT").expect("TWILL_BPF_OBJECT names the object");
    let object = std::fs::read(&path);
    Some(object.unwrap_or_else(|error| panic!("read the object {}: {error}", path.display())))
}

/// How often a property is tried: as often as it says, unless `PROPTEST_CASES` does.
pub(crate) fn cases(usual: u32) -> u32 {
    let Ok(text) = std::env::var("PROPTEST_CASES") else {
        return usual;
    };
    text.parse()
        .unwrap_or_else(|error| panic!("PROPTEST_CASES={text}: {error}"))
}

/// The name of a place in the map `counters`.
pub(crate) fn counter_name(place: u32) -> String {
    for &program in Program::ALL {
        for &reason in Reason::ALL {
            if counter_index(program, reason) == place {
                return format!("{}/{}", program.label(), reason.label());
            }
        }
    }
    format!("place {place}, which has no name")
}

/// `CLOCK_MONOTONIC`, which is what `bpf_ktime_get_ns` reads, nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("read the clock");
    let (seconds, nanoseconds) = (now.tv_sec(), now.tv_nsec());
    u64::try_from(seconds * 1_000_000_000 + nanoseconds).expect("after the start")
}

/// Keeps the calling thread on one CPU: what the programs keep for each is one thing then.
pub(crate) fn stay_on_one_cpu() {
    let mut one = CpuSet::new();
    let here = sched_getcpu().expect("ask for the CPU");
    one.set(here).expect("a CPU of this machine");
    // The calling thread; by its own id it would be the process' first one alone.
    sched_setaffinity(Pid::from_raw(0), &one).expect("choose a CPU");
}

/// Runs `ip` with one command in each line.
pub(crate) fn ip(commands: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start ip");
    let mut stdin = child.stdin.take().expect("a pipe was asked for");
    stdin.write_all(commands.as_bytes()).expect("write to ip");
    drop(stdin);
    let output = child.wait_with_output().expect("wait for ip");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip: {errors}");
}

/// Sets a `net.*` value of this thread's namespace.
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("write {path}: {error}"));
}

fn build_network() {
    // Router solicitations would mix with the packets under test.
    sysctl("ipv6/conf/default/disable_ipv6", "1");
    sysctl("ipv4/ip_forward", "1");
    let (vtep_mac, pod_mac) = (mac_text(VTEP_MAC_A), mac_text(POD_MAC));
    let (uplink_mac, node_b_mac, gateway_mac) = (
        mac_text(UPLINK_MAC_A),
        mac_text(UPLINK_MAC_B),
        mac_text(GATEWAY_MAC),
    );
    ip(&format!(
        "link set lo up
link add {UPLINK} address {uplink_mac} mtu {UPLINK_MTU} type veth peer name {WIRE}
link set {UPLINK} up
link set {WIRE} arp off up
address add {NODE_A}/24 dev {UPLINK}
neighbour add {NODE_B} lladdr {node_b_mac} dev {UPLINK} nud permanent
neighbour add {GATEWAY} lladdr {gateway_mac} dev {UPLINK} nud permanent
route add 198.51.100.0/25 via {GATEWAY}
route add {NARROW_NODE} via {GATEWAY} mtu lock {NARROW_MTU}
route add unreachable {UNREACHABLE_NODE}
link add elsewhere type veth peer name elsewhere-wire
link set elsewhere up
link set elsewhere-wire arp off up
address add 198.51.100.129/25 dev elsewhere
neighbour add {SIDE_NODE} lladdr {gateway_mac} dev elsewhere nud permanent
link add {OVERLAY} address {vtep_mac} mtu 1450 type vxlan id {VNI} local {NODE_A} dev {UPLINK} dstport {PORT} nolearning noudpcsum
address add {OVERLAY_A}/32 dev {OVERLAY}
link set {OVERLAY} up
link add {VETH} type veth peer name pod-a1
link set {VETH} up
link add {OTHER_VETH} type veth peer name pod-a2
link set {OTHER_VETH} up
link add {BRIDGE} type bridge
address add {BRIDGE_A}/24 dev {BRIDGE}
link set {BRIDGE} up
neighbour add {POD_A1} lladdr {pod_mac} dev {BRIDGE} nud permanent
"
    ));
    // What programs are attached to where the kernel has no TCX.
    for interface in [UPLINK, OVERLAY] {
        tc::qdisc_add_clsact(interface)
            .unwrap_or_else(|error| panic!("add clsact to {interface}: {error}"));
    }
}

fn index_of(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface)
        .unwrap_or_else(|error| panic!("index of {interface}: {error}"))
}

fn read_counters(ebpf: &mut Ebpf) -> BTreeMap<u32, Counter> {
    per_cpu(ebpf, COUNTERS_MAP.name, |values: &[Counter]| Counter {
        packets: values.iter().map(|value| value.packets).sum(),
        bytes: values.iter().map(|value| value.bytes).sum(),
    })
}

fn read_vtep_counters(ebpf: &mut Ebpf) -> BTreeMap<u32, VtepCounter> {
    per_cpu(ebpf, VTEP_COUNTERS.name, |values: &[VtepCounter]| {
        VtepCounter {
            encap_packets: values.iter().map(|value| value.encap_packets).sum(),
            encap_bytes: values.iter().map(|value| value.encap_bytes).sum(),
            uplink_packets: values.iter().map(|value| value.uplink_packets).sum(),
            uplink_bytes: values.iter().map(|value| value.uplink_bytes).sum(),
        }
    })
}

fn per_cpu<V: aya::Pod>(ebpf: &mut Ebpf, name: &str, sum: impl Fn(&[V]) -> V) -> BTreeMap<u32, V> {
    let map = ebpf
        .map(name)
        .unwrap_or_else(|| panic!("the object has no map {name}"));
    let map: PerCpuArray<&MapData, V> = map.try_into().expect("a per-CPU array");
    let values = map
        .iter()
        .map(|values| sum(&values.expect("read a per-CPU array")));
    (0..).zip(values).collect()
}
