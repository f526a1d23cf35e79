//! The agent's settings in the map `config`.

use std::net::{IpAddr, Ipv4Addr};

use twill_abi::{Address, Be16, CONFIG_FLAG_ODD_ROUTES, Config, FastPath, Mode};
use twill_core::subnet::Subnet;
use twill_core::vtep::{MacAddr, Vni};

/// How long a flow's acceptance lasts: at most half of the smallest conntrack timeout
/// that applies (30 s for UDP without replies).
const PERMIT_NS: u64 = 10_000_000_000;
/// The one bit of `skb->mark`: 0x4000 and 0x8000 are kube-proxy's, 0xffff0000 Calico's.
const MARK_BIT: u32 = 0x1000;
/// The kernel's default UDP port for VXLAN, where the configuration names none.
const KERNEL_VXLAN_PORT: u16 = 8472;

/// What the programs must know, before it is put into bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// Lowest and highest UDP source port (`net.ipv4.ip_local_port_range`).
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
}

impl Settings {
    /// The value for the map, with the agent's sign of life (`CLOCK_MONOTONIC`, ns) and
    /// the count of writes.
    pub fn to_config(&self, heartbeat_ns: u64, generation: u64) -> Config {
        let (source_port_min, source_port_last) = self.source_ports;
        Config {
            permit_ns: PERMIT_NS,
            outer_permit_ns: PERMIT_NS,
            heartbeat_ns,
            mode: self.mode as u32,
            fast_path: FastPath::Off as u32,
            flags: if self.odd_routes {
                CONFIG_FLAG_ODD_ROUTES
            } else {
                0
            },
            vni: self.vni.get(),
            mark_bit: MARK_BIT,
            uplink_ifindex: self.uplink_ifindex,
            overlay_ifindex: self.overlay_ifindex,
            guard: 0,
            vxlan_port: Be16::from_host(self.port.unwrap_or(KERNEL_VXLAN_PORT)),
            source_port_min,
            // udp_flow_src_port() in include/net/udp.h, v6.12, never takes the last port:
            // `((u64) hash * (max - min)) >> 32 + min`, and the programs count the same way.
            source_port_max: source_port_last,
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
            reserved: [0; 7],
            generation,
            reserved_tail: [0; 8],
        }
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
        };
        let config = settings.to_config(5, 6);
        assert_eq!(config.vxlan_port.to_host(), 8472);
        assert_eq!(
            (config.source_port_min, config.source_port_max),
            (32_768, 60_999)
        );
        assert_eq!((config.heartbeat_ns, config.generation), (5, 6));
        assert_eq!(config.flags, CONFIG_FLAG_ODD_ROUTES);
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
