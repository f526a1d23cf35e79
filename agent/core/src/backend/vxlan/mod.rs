//! vxlan: a device `flannel.<VNI>`, and for each peer a neighbour entry, an FDB entry and a route
//! (flannel 0.28.9, `pkg/backend/vxlan`).

mod entries;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::Ipv4Network;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use twill_packet::vxlan::ENCAP_OVERHEAD;

pub(super) use self::entries::entries;
use super::{LinkKind, LinkName, LinkSpec, Peer, Unsuitable, VxlanLink};
use crate::config::VxlanConfig;
use crate::config::json::Json;
use crate::lease::{BackendData, Lease, LeaseAttrs, LeaseError};
use crate::mtu::{MIN_UNDERLAY_MTU, overlay_mtu};
use crate::observed::{ObservedDevice, ObservedKernel};
use crate::subnet::Subnet;
use crate::uplink::Uplink;
use crate::vtep::{MacAddr, RemoteVtep, Vni};

/// `Backend.Type` and `BackendType`.
pub(crate) const NAME: &str = "vxlan";

/// The keys of [`VxlanData`].
pub(super) const KEYS: [&str; 2] = ["VNI", "VtepMAC"];

/// `BackendData` of the vxlan backend. Field order and spelling are read by flannel's
/// own parser byte for byte (`{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}`).
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct VxlanData {
    /// VNI; flannel ignores a peer's, and tolerates its absence.
    #[serde(rename = "VNI")]
    pub vni: u32,
    /// MAC address of the node's vxlan device.
    #[serde(rename = "VtepMAC")]
    pub vtep_mac: MacAddr,
}

impl<'de> Deserialize<'de> for VxlanData {
    /// As Go does: keys without regard to ASCII case, and no VNI for `null`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Exact {
            #[serde(rename = "VNI", default)]
            vni: Option<u32>,
            #[serde(rename = "VtepMAC")]
            vtep_mac: MacAddr,
        }
        let value = Json::deserialize(deserializer)?.into_value(&KEYS);
        if !value.is_object() {
            return Err(D::Error::custom("it is no object"));
        }
        let Exact { vni, vtep_mac } = Exact::deserialize(value).map_err(D::Error::custom)?;
        let vni = vni.unwrap_or_default();
        Ok(Self { vni, vtep_mac })
    }
}

/// What a node with the vxlan backend publishes.
pub fn attrs(public_ip: Ipv4Addr, vni: Vni, mac: MacAddr) -> LeaseAttrs {
    let data = [
        ("VNI", Value::from(vni.get())),
        ("VtepMAC", Value::from(mac.to_string())),
    ];
    let data = data.map(|(key, value)| (key.to_owned(), value));
    LeaseAttrs {
        public_ip,
        public_ipv6: None,
        backend_type: NAME.to_owned(),
        backend_data: Some(BackendData::from(&Value::Object(
            data.into_iter().collect(),
        ))),
        backend_v6_data: None,
    }
}

/// What is wrong with data that a node sends to be published.
pub(super) fn check_data(data: &BackendData) -> Result<(), String> {
    let form = r#"send {"VNI":1,"VtepMAC":"02:00:5e:10:00:01"}"#;
    let parsed =
        VxlanData::deserialize(data.value()).map_err(|error| format!("{error}; {form}"))?;
    Vni::new(u64::from(parsed.vni)).map_err(|error| error.to_string())?;
    if !parsed.vtep_mac.is_unicast() {
        return Err("VtepMAC is zero or multicast; send the device's own".to_owned());
    }
    Ok(())
}

pub(super) fn settings(config: &VxlanConfig) -> String {
    let VxlanConfig {
        vni,
        port,
        mtu: _,
        gbp,
        learning,
        direct_routing,
    } = config;
    let port = port.unwrap_or_default();
    format!(
        "VXLAN config: VNI={vni} Port={port} GBP={gbp} Learning={learning} \
         DirectRouting={direct_routing}"
    )
}

pub(super) fn without_bpf(config: &VxlanConfig) -> Option<&'static str> {
    // The kernel's device puts the packet's mark into the header, and judges by it.
    config
        .gbp
        .then_some("Backend.GBP is true: BPF does not send the group of a packet, the kernel does")
}

pub(super) fn suits(config: &VxlanConfig, uplink: &Uplink) -> Result<(), Unsuitable> {
    overlay_mtu(config.mtu, uplink.mtu)?;
    Ok(())
}

/// An uplink that became too small is for the run loop to report; the overlay keeps the least
/// that every host must take.
pub(super) fn mtu(config: &VxlanConfig, uplink: &Uplink) -> u32 {
    overlay_mtu(config.mtu, uplink.mtu).unwrap_or(MIN_UNDERLAY_MTU - ENCAP_OVERHEAD)
}

pub(super) fn link_name(config: &VxlanConfig) -> LinkName {
    name_for(config.vni)
}

/// Flannel's name of the device.
pub(super) fn name_for(vni: Vni) -> LinkName {
    format!("flannel.{vni}").into()
}

/// The device carries the first address of the own subnet, as a `/32`.
pub(super) fn link(
    config: &VxlanConfig,
    uplink: &Uplink,
    mac: MacAddr,
    own: Option<Subnet>,
) -> LinkSpec {
    let address = own.and_then(|own| match own.network() {
        IpAddr::V4(address) => Some(Ipv4Network::from(address)),
        IpAddr::V6(_) => None,
    });
    LinkSpec {
        name: link_name(config),
        mtu: mtu(config, uplink),
        former_mtu: None,
        mac,
        address,
        kind: LinkKind::Vxlan(VxlanLink {
            vni: config.vni,
            port: config.port,
            local: uplink.local,
            uplink_ifindex: uplink.ifindex,
            gbp: config.gbp,
            learning: config.learning,
        }),
    }
}

/// Whether an existing device is used as it is: flannel's `vxlanLinksIncompat`
/// (flannel 0.28.9, `pkg/backend/vxlan/device.go`). MTU, MAC address and learning do not count.
pub(super) fn is_compatible(device: &ObservedDevice, wanted: &VxlanLink) -> bool {
    let other_uplink = device
        .uplink_ifindex
        .is_some_and(|it| it != 0 && wanted.uplink_ifindex != 0 && it != wanted.uplink_ifindex);
    let other_local = device
        .local
        .is_some_and(|local| local != IpAddr::V4(wanted.local));
    let other_port = match (device.port, wanted.port) {
        (Some(is), Some(should)) => is != 0 && should != 0 && is != should,
        _ => false,
    };
    device.kind == "vxlan"
        && device.vni == Some(wanted.vni.get())
        && !other_uplink
        && !other_local
        && device.group.is_none()
        && !device.l2miss
        && !other_port
        && device.gbp == wanted.gbp
}

/// The VTEP that a lease names.
pub(super) fn peer(lease: &Lease, underlay: IpAddr) -> Result<Peer, LeaseError> {
    let subnet = lease.subnet;
    let Some(data) = &lease.attrs.backend_data else {
        return Err(LeaseError::NoBackendData { subnet });
    };
    let data = VxlanData::deserialize(data.value()).map_err(|source| LeaseError::BackendData {
        subnet,
        value: data.as_str().chars().take(128).collect(),
        source,
    })?;
    let mac = data.vtep_mac;
    if !mac.is_unicast() {
        return Err(LeaseError::Mac { subnet, mac });
    }
    Ok(Peer::Vtep(RemoteVtep { underlay, mac }))
}

/// A lease is a route with the neighbour that it leads to, and that one's FDB entry.
pub(super) fn leases(config: &VxlanConfig, kernel: &ObservedKernel) -> Vec<Lease> {
    let Some(link) = kernel.links.get(&link_name(config)) else {
        return Vec::new();
    };
    let underlays: BTreeMap<MacAddr, IpAddr> = link.fdb.iter().copied().collect();
    let encap = link.routes.iter();
    let encap = encap.filter_map(|(subnet, route)| Some((subnet, route.gateway?)));
    // The neighbour of a peer that is reached without encap is kept for when it is not.
    let direct = kernel.underlay_routes.keys();
    let direct = direct.map(|subnet| (subnet, subnet.network()));
    let lease = |(subnet, gateway): (&Subnet, IpAddr)| {
        let mac = *link.neighbors.get(&gateway)?;
        let IpAddr::V4(underlay) = *underlays.get(&mac)? else {
            return None;
        };
        Some(Lease {
            subnet: *subnet,
            attrs: attrs(underlay, config.vni, mac),
            ttl_seconds: None,
        })
    };
    encap.chain(direct).filter_map(lease).collect()
}

/// The device carries the first address of the node's own subnet, as a `/32`.
pub(super) fn own_subnet(
    config: &VxlanConfig,
    kernel: &ObservedKernel,
    subnet_len: u8,
) -> Option<Subnet> {
    let link = kernel.links.get(&link_name(config))?;
    let mut hosts = link.addresses.iter().filter(|it| it.prefix() == 32);
    let subnet = Ipv4Network::new(hosts.next()?.ip(), subnet_len).ok()?;
    Some(Subnet::containing(subnet.into()))
}
