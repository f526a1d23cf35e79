//! The agent's settings in the map `config`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use twill_abi::{
    Address, Be16, CONFIG_FLAG_BARE_UPLINK, CONFIG_FLAG_EXCLUDED_LINKS,
    CONFIG_FLAG_LEASES_COMPLETE, CONFIG_FLAG_ODD_ROUTES, CONFIG_FLAG_OVERLAY_POLICY,
    CONFIG_FLAG_POD_VXLAN, CONFIG_FLAG_ROUTED_BY_PORT, CONFIG_FLAG_SHARED_PORT, CONFIG_FLAG_STALE,
    CONFIG_FLAG_TCP_PERMITS, Config, FastPath, Guard, Mode,
};
use twill_core::subnet::Subnet;
use twill_core::vtep::{MacAddr, Vni};

/// The kernel's default UDP port for VXLAN, where the configuration names none.
pub const KERNEL_VXLAN_PORT: u16 = 8472;

/// What the programs must know, before it is put into bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each becomes a flag of its own in the map"
)]
pub struct Settings {
    /// Who carries packets.
    pub mode: Mode,
    /// VNI.
    pub vni: Vni,
    /// UDP destination port; `None`: the kernel's default.
    pub port: Option<u16>,
    /// Interface index of the uplink.
    pub uplink_ifindex: u32,
    /// Interface index of the vxlan device.
    pub overlay_ifindex: u32,
    /// The lowest UDP source port, and the first behind those that the kernel takes
    /// ([`super::source_ports`]).
    pub source_ports: (u16, u16),
    /// Prefix length of most subnets (`SubnetLen`).
    pub common_prefix: u8,
    /// Whether a subnet has another one.
    pub odd_routes: bool,
    /// Outer source address.
    pub underlay: Ipv4Addr,
    /// The own subnet.
    pub own_subnet: Subnet,
    /// The whole overlay.
    pub network: Subnet,
    /// MAC address of the vxlan device.
    pub vtep_mac: MacAddr,
    /// Which flows may skip the host's stack.
    pub fast_path: FastPath,
    /// How long an acceptance lasts, of a flow and of the way to a VTEP.
    pub permit_time: Duration,
    /// The one bit of the packet mark that says "accepted as established".
    pub mark_bit: u32,
    /// Whether conntrack lets TCP flows rest, so that they may have permits.
    pub tcp_permits: bool,
    /// Whether something that the fast path rests on is missing: no flow is fast then, not even
    /// by the operator's word.
    pub stale: bool,
    /// Bits of the packet mark that routing rules look at in outer packets.
    pub rule_marks: u32,
    /// Whether a routing rule tells outer packets apart by their source ports.
    pub routed_by_port: bool,
    /// Whether somebody else's qdisc, filter or program is on the overlay's device.
    pub overlay_policy: bool,
    /// Whether the uplink's packets have no Ethernet header.
    pub bare_uplink: bool,
    /// Whether the operator wants links of pods slow by their names.
    pub excluded_links: bool,
    /// What becomes of strangers' VXLAN.
    pub guard: Guard,
    /// Whether every lease is in the maps, and new ones are heard of at once.
    pub leases_complete: bool,
    /// Whether another vxlan device of the host takes packets at the same port.
    pub shared_port: bool,
    /// Whether pods may send to the nodes' VXLAN port.
    pub pod_vxlan: bool,
}

impl Settings {
    /// The value for the map, with the agent's sign of life (`CLOCK_MONOTONIC`, ns) and the
    /// count of writes. What the maps themselves keep is left out: the seed, the pace of permits,
    /// whether addresses are excluded, and where the guard is.
    pub fn to_config(&self, heartbeat_ns: u64, generation: u64) -> Config {
        let (source_port_min, source_port_max) = self.source_ports;
        let permit_ns = u64::try_from(self.permit_time.as_nanos()).unwrap_or(u64::MAX);
        Config {
            permit_ns,
            outer_permit_ns: permit_ns,
            heartbeat_ns,
            mode: self.mode as u32,
            fast_path: self.fast_path as u32,
            flags: self.flags(),
            vni: self.vni.get(),
            mark_bit: self.mark_bit,
            uplink_ifindex: self.uplink_ifindex,
            overlay_ifindex: self.overlay_ifindex,
            guard: self.guard as u32,
            vxlan_port: Be16::from_host(self.port.unwrap_or(KERNEL_VXLAN_PORT)),
            source_port_min,
            // As udp_flow_src_port() in include/net/udp.h, v6.12, the programs never take it:
            // `((u64) hash * (max - min)) >> 32 + min`.
            source_port_max,
            common_prefix_v4: self.common_prefix,
            common_prefix_v6: 0,
            underlay: Address::from(self.underlay),
            own_subnet: Address::from(self.own_subnet.network()),
            own_subnet_v6: Address::from(IpAddr::from([0; 16])),
            network: Address::from(self.network.network()),
            vtep_mac: self.vtep_mac.0,
            own_prefix_v4: self.own_subnet.prefix(),
            own_prefix_v6: 0,
            network_prefix_v4: self.network.prefix(),
            reserved: [0; 3],
            permit_pace_ns: 0,
            generation,
            flow_seed: 0,
            rule_marks: self.rule_marks,
            reserved_tail: 0,
        }
    }

    fn flags(&self) -> u32 {
        let set = |condition, flag| if condition { flag } else { 0 };
        set(self.odd_routes, CONFIG_FLAG_ODD_ROUTES)
            | set(self.tcp_permits, CONFIG_FLAG_TCP_PERMITS)
            | set(self.stale, CONFIG_FLAG_STALE)
            | set(self.leases_complete, CONFIG_FLAG_LEASES_COMPLETE)
            | set(self.routed_by_port, CONFIG_FLAG_ROUTED_BY_PORT)
            | set(self.overlay_policy, CONFIG_FLAG_OVERLAY_POLICY)
            | set(self.bare_uplink, CONFIG_FLAG_BARE_UPLINK)
            | set(self.excluded_links, CONFIG_FLAG_EXCLUDED_LINKS)
            | set(self.shared_port, CONFIG_FLAG_SHARED_PORT)
            | set(self.pod_vxlan, CONFIG_FLAG_POD_VXLAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_arrives() {
        let settings = Settings {
            mode: Mode::Bpf,
            vni: Vni::new(7).unwrap(),
            port: None,
            uplink_ifindex: 2,
            overlay_ifindex: 3,
            source_ports: (32_768, 60_999),
            common_prefix: 24,
            odd_routes: true,
            underlay: Ipv4Addr::new(192, 0, 2, 1),
            own_subnet: "10.244.1.0/24".parse().unwrap(),
            network: "10.244.0.0/16".parse().unwrap(),
            vtep_mac: MacAddr([2, 0, 0x5e, 0x10, 0, 1]),
            fast_path: FastPath::Permit,
            permit_time: Duration::from_secs(10),
            mark_bit: 0x1000,
            tcp_permits: true,
            stale: false,
            rule_marks: 0x70,
            routed_by_port: true,
            overlay_policy: true,
            bare_uplink: true,
            excluded_links: true,
            guard: Guard::Enforce,
            leases_complete: true,
            shared_port: false,
            pod_vxlan: true,
        };
        let config = settings.to_config(5, 6);
        assert_eq!(config.vxlan_port.to_host(), 8472);
        assert_eq!(
            (config.source_port_min, config.source_port_max),
            (32_768, 60_999)
        );
        assert_eq!((config.heartbeat_ns, config.generation), (5, 6));
        assert_eq!(
            config.flags,
            CONFIG_FLAG_ODD_ROUTES
                | CONFIG_FLAG_TCP_PERMITS
                | CONFIG_FLAG_LEASES_COMPLETE
                | CONFIG_FLAG_ROUTED_BY_PORT
                | CONFIG_FLAG_OVERLAY_POLICY
                | CONFIG_FLAG_BARE_UPLINK
                | CONFIG_FLAG_EXCLUDED_LINKS
                | CONFIG_FLAG_POD_VXLAN
        );
        assert_eq!((config.guard, config.rule_marks), (2, 0x70));
        let stale = Settings {
            stale: true,
            ..settings.clone()
        };
        let added = stale.to_config(5, 6).flags ^ config.flags;
        assert_eq!(added, CONFIG_FLAG_STALE);
        assert_eq!((config.fast_path, config.mark_bit), (1, 0x1000));
        assert_eq!(config.permit_ns, 10_000_000_000);
        assert_eq!(config.outer_permit_ns, 10_000_000_000);
        assert_eq!((config.vni, config.mode), (7, 2));
        assert_eq!((config.uplink_ifindex, config.overlay_ifindex), (2, 3));
        assert_eq!(IpAddr::from(config.underlay), IpAddr::from([192, 0, 2, 1]));
        assert_eq!(
            IpAddr::from(config.own_subnet),
            IpAddr::from([10, 244, 1, 0])
        );
        assert_eq!(IpAddr::from(config.network), IpAddr::from([10, 244, 0, 0]));
        assert_eq!((config.own_prefix_v4, config.network_prefix_v4), (24, 16));
        assert_eq!(config.common_prefix_v4, 24);
        assert_eq!(config.vtep_mac, [2, 0, 0x5e, 0x10, 0, 1]);
    }
}
