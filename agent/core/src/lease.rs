//! Leases: a subnet held by a node, with the attributes that flannel publishes.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::subnet::Subnet;
use crate::vtep::MacAddr;

/// `BackendData` of the vxlan backend. Field order and spelling are read by flannel's
/// own parser byte for byte (`{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VxlanData {
    /// VNI; flannel ignores a peer's, and tolerates its absence.
    #[serde(rename = "VNI", default)]
    pub vni: u32,
    /// MAC address of the node's vxlan device.
    #[serde(rename = "VtepMAC")]
    pub vtep_mac: MacAddr,
}

/// What a node publishes of itself: flannel's `LeaseAttrs`, in its field order
/// (flannel 0.28.9, `pkg/lease/lease.go`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeaseAttrs {
    /// IPv4 underlay address.
    #[serde(rename = "PublicIP")]
    pub public_ip: Ipv4Addr,
    /// IPv6 underlay address.
    #[serde(rename = "PublicIPv6", default)]
    pub public_ipv6: Option<Ipv6Addr>,
    /// `vxlan`, or another backend whose leases are not ours.
    #[serde(
        rename = "BackendType",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub backend_type: String,
    /// The backend's own data; see [`VxlanData`].
    #[serde(
        rename = "BackendData",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub backend_data: Option<serde_json::Value>,
    /// The same for IPv6.
    #[serde(
        rename = "BackendV6Data",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub backend_v6_data: Option<serde_json::Value>,
}

/// A subnet held by a node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lease {
    /// The subnet.
    pub subnet: Subnet,
    /// Who holds it.
    pub attrs: LeaseAttrs,
    /// Seconds until it expires, counted when the store answered; absent for a reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}
