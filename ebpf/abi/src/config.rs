//! Run-time settings, the one value that every program reads first.

use crate::layout::abi_struct;
use crate::{Address, Be16};

/// Key of the agent's settings in the map `config`.
pub const CONFIG_KEY_AGENT: u32 = 0;
/// Key of the operator's override in the map `config`; the agent never writes it.
/// Of its value [`Config::mode`] counts unless it is [`Mode::Unset`], and [`Config::fast_path`]
/// where [`Config::flags`] has [`CONFIG_FLAG_FAST_PATH`]; nothing else.
pub const CONFIG_KEY_OPERATOR: u32 = 1;

/// Odd prefixes exist: a miss in `overlay_routes` looks into `odd_routes`.
pub const CONFIG_FLAG_ODD_ROUTES: u32 = 1 << 0;
/// The conntrack settings that TCP permits need are in force.
pub const CONFIG_FLAG_TCP_PERMITS: u32 = 1 << 1;
/// The agent could not verify its own assumptions (a sysctl was lost): no fast path.
pub const CONFIG_FLAG_STALE: u32 = 1 << 3;
/// In the operator's override: its `fast_path` goes before the agent's.
pub const CONFIG_FLAG_FAST_PATH: u32 = 1 << 4;

/// Every lease is in the maps, and the agent hears of new ones: only then is a source that is no
/// VTEP a stranger.
pub const CONFIG_FLAG_LEASES_COMPLETE: u32 = 1 << 5;
/// Another vxlan device of this host takes packets at our port: another VNI may be its.
pub const CONFIG_FLAG_SHARED_PORT: u32 = 1 << 6;
/// Pods may send to the nodes' VXLAN port.
pub const CONFIG_FLAG_POD_VXLAN: u32 = 1 << 7;
/// The guard is not at XDP: `from_uplink` does its work.
pub const CONFIG_FLAG_GUARD_AT_TC: u32 = 1 << 8;
/// There are addresses of which no flow may be fast: the map `excluded` names them.
pub const CONFIG_FLAG_EXCLUSIONS: u32 = 1 << 9;
/// A routing rule tells outer packets apart by their source ports: the kernel alone can follow it.
pub const CONFIG_FLAG_ROUTED_BY_PORT: u32 = 1 << 10;
/// The uplink's packets have no Ethernet header (TUN, `WireGuard`, PPP): nothing is carried past the
/// kernel, and the guard reads them from their IP header on.
pub const CONFIG_FLAG_BARE_UPLINK: u32 = 1 << 11;
/// Somebody else's qdisc, filter or program is on the overlay's device: its packets are the
/// kernel's, which asks it.
pub const CONFIG_FLAG_OVERLAY_POLICY: u32 = 1 << 12;
/// The operator wants some links of pods slow, by names that only the agent knows: whoever enters a
/// pod without it takes none for fast.
pub const CONFIG_FLAG_EXCLUDED_LINKS: u32 = 1 << 14;

/// How old the agent's sign of life may be for the guard to drop, nanoseconds.
pub const GUARD_HEARTBEAT_NS: u64 = 10_000_000_000;

/// How far a CPU may be ahead of [`Config::permit_pace_ns`], nanoseconds.
pub const PERMIT_BURST_NS: u64 = 10_000_000_000;

/// What becomes of VXLAN that no peer sent, `Config::guard`. An unknown number means nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Guard {
    /// It is not looked at.
    Off = 0,
    /// It is counted.
    Count = 1,
    /// It is dropped, while the agent is alive and knows every lease; else counted.
    Enforce = 2,
}

/// Who carries packets, `Config::mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Mode {
    /// Nothing said. From the agent it means [`Mode::Kernel`]: a zeroed map is safe.
    Unset = 0,
    /// Every program passes every packet on.
    Kernel = 1,
    /// The programs work.
    Bpf = 2,
}

/// Which flows may skip the host's stack, `Config::fast_path`. An unknown number means none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum FastPath {
    /// None.
    Off = 0,
    /// Flows that netfilter has accepted a moment ago.
    Permit = 1,
    /// Pod to pod without asking.
    Direct = 2,
}

abi_struct! {
    /// Run-time settings; see [`CONFIG_KEY_AGENT`] and [`CONFIG_KEY_OPERATOR`].
    pub struct Config: 168, align 8 {
        /// Time a direction's acceptance lasts, nanoseconds.
        pub permit_ns: u64 = 0,
        /// Time a VTEP's outer permit lasts, nanoseconds.
        pub outer_permit_ns: u64 = 8,
        /// The agent's last sign of life, `CLOCK_MONOTONIC` nanoseconds.
        pub heartbeat_ns: u64 = 16,
        /// A [`Mode`].
        pub mode: u32 = 24,
        /// A [`FastPath`].
        pub fast_path: u32 = 28,
        /// `CONFIG_FLAG_*`.
        pub flags: u32 = 32,
        /// VNI in the low 24 bits.
        pub vni: u32 = 36,
        /// The one bit of `skb->mark` that says "accepted as established".
        pub mark_bit: u32 = 40,
        /// Interface index of the uplink.
        pub uplink_ifindex: u32 = 44,
        /// Interface index of the kernel's vxlan device.
        pub overlay_ifindex: u32 = 48,
        /// A [`Guard`].
        pub guard: u32 = 52,
        /// Outer UDP destination port.
        pub vxlan_port: Be16 = 56,
        /// Lowest outer UDP source port, host order (`net.ipv4.ip_local_port_range`).
        pub source_port_min: u16 = 58,
        /// One above the highest outer UDP source port, as the kernel's vxlan counts, host order.
        pub source_port_max: u16 = 60,
        /// Prefix length of the keys of `overlay_routes` for IPv4 destinations, 0 to 32.
        pub common_prefix_v4: u8 = 62,
        /// Prefix length of the keys of `overlay_routes` for IPv6 destinations, 0 to 128.
        pub common_prefix_v6: u8 = 63,
        /// Own underlay address: outer source, and the only outer destination decapsulated.
        pub underlay: Address = 64,
        /// Network address of the own IPv4 subnet, v4-mapped.
        pub own_subnet: Address = 80,
        /// Network address of the own IPv6 subnet.
        pub own_subnet_v6: Address = 96,
        /// Network address of the overlay network, v4-mapped.
        pub network: Address = 112,
        /// MAC address of the own vxlan device.
        pub vtep_mac: [u8; 6] = 128,
        /// Prefix length of `own_subnet`, 0 to 32.
        pub own_prefix_v4: u8 = 134,
        /// Prefix length of `own_subnet_v6`, 0 to 128.
        pub own_prefix_v6: u8 = 135,
        /// Prefix length of `network`, 0 to 32.
        pub network_prefix_v4: u8 = 136,
        /// Zero.
        pub reserved: [u8; 3] = 137,
        /// Time that one CPU shall take for each new permit, nanoseconds; see
        /// [`PERMIT_BURST_NS`]. With 0 there is no limit.
        pub permit_pace_ns: u32 = 140,
        /// Counts the agent's writes, so that a reader can tell a new one.
        pub generation: u64 = 144,
        /// Chance, so that no pod can aim at the hash of another flow. It stays as long as the maps.
        pub flow_seed: u64 = 152,
        /// The bits of the packet mark that routing rules look at in outer packets: what has one of
        /// them is the kernel's to encapsulate.
        pub rule_marks: u32 = 160,
        /// Zero.
        pub reserved_tail: u32 = 164,
    }
}

impl Config {
    /// What an entry of the map holds that nobody has written.
    pub const UNWRITTEN: Self = Self {
        permit_ns: 0,
        outer_permit_ns: 0,
        heartbeat_ns: 0,
        mode: Mode::Unset as u32,
        fast_path: 0,
        flags: 0,
        vni: 0,
        mark_bit: 0,
        uplink_ifindex: 0,
        overlay_ifindex: 0,
        guard: 0,
        vxlan_port: Be16::from_host(0),
        source_port_min: 0,
        source_port_max: 0,
        common_prefix_v4: 0,
        common_prefix_v6: 0,
        underlay: Address::NOWHERE,
        own_subnet: Address::NOWHERE,
        own_subnet_v6: Address::NOWHERE,
        network: Address::NOWHERE,
        vtep_mac: [0; 6],
        own_prefix_v4: 0,
        own_prefix_v6: 0,
        network_prefix_v4: 0,
        reserved: [0; 3],
        permit_pace_ns: 0,
        generation: 0,
        flow_seed: 0,
        rule_marks: 0,
        reserved_tail: 0,
    };
}
