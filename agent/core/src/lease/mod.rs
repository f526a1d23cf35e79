//! Leases: a subnet held by a node, with the attributes that flannel publishes.

mod data;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

pub use self::data::BackendData;

use crate::backend::DATA_KEYS;
use crate::config::json::Object;
use crate::subnet::Subnet;
use crate::vtep::MacAddr;

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
    /// The backend's name; those of other backends are not for us.
    #[serde(
        rename = "BackendType",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub backend_type: String,
    /// The backend's own data: see [`crate::backend`].
    #[serde(
        rename = "BackendData",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub backend_data: Option<BackendData>,
    /// The same for IPv6.
    #[serde(
        rename = "BackendV6Data",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub backend_v6_data: Option<BackendData>,
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

/// Why a lease names no VTEP: key, value, and what would be right.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// A node with another backend. Nothing is wrong with it, and it is not for us.
    #[error("BackendType of {subnet} is {backend_type:?}, not {own:?}")]
    OtherBackend {
        /// The lease.
        subnet: Subnet,
        /// The other backend's name, shortened.
        backend_type: String,
        /// Our backend's name.
        own: &'static str,
    },
    /// No data of the backend.
    #[error(
        "BackendData of {subnet} is missing; it would be {{\"VtepMAC\": \"02:00:5e:10:00:01\"}}"
    )]
    NoBackendData {
        /// The lease.
        subnet: Subnet,
    },
    /// Data of the backend that cannot be read.
    #[error(
        "BackendData of {subnet} is {value}; it would be {{\"VtepMAC\": \"02:00:5e:10:00:01\"}}"
    )]
    BackendData {
        /// The lease.
        subnet: Subnet,
        /// The data as JSON, shortened.
        value: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A MAC address that no device has.
    #[error("VtepMAC of {subnet} is {mac}; a VTEP has a unicast address, as 02:00:5e:10:00:01")]
    Mac {
        /// The lease.
        subnet: Subnet,
        /// The address.
        mac: MacAddr,
    },
    /// An address that no packet can be sent to.
    #[error("PublicIP of {subnet} is {public_ip}; it must be one node's underlay address")]
    PublicIp {
        /// The lease.
        subnet: Subnet,
        /// The address.
        public_ip: Ipv4Addr,
    },
    /// An underlay address behind itself: its packets would be encapsulated again for ever.
    #[error("PublicIP of {subnet} is {public_ip}, in the lease's own subnet; it must be outside")]
    PublicIpInSubnet {
        /// The lease.
        subnet: Subnet,
        /// The address.
        public_ip: Ipv4Addr,
    },
    /// A subnet that is no part of the overlay, or all of it.
    #[error(
        "subnet {subnet} is not a part of the overlay {network}; it must be an IPv4 subnet in it"
    )]
    Subnet {
        /// The lease.
        subnet: Subnet,
        /// The overlay.
        network: Subnet,
    },
}

impl LeaseAttrs {
    /// Reads a value of flannel's store, as Go does: keys without regard to ASCII case, of
    /// several equal ones the last, `null` for what is not set (but no `null` for `PublicIP`). A
    /// value is often written by hand: a reservation is nothing but `{"PublicIP":"192.0.2.1"}`.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        const PUBLIC_IP: &str = "PublicIP";
        const BACKEND_TYPE: &str = "BackendType";
        const KEYS: [&str; 5] = [
            PUBLIC_IP,
            "PublicIPv6",
            BACKEND_TYPE,
            "BackendData",
            "BackendV6Data",
        ];
        let written: Object = serde_json::from_slice(text)?;
        let mut read = Map::new();
        for (key, value) in written.into_entries() {
            let known = KEYS.iter().find(|known| known.eq_ignore_ascii_case(&key));
            let Some(&known) = known else {
                continue;
            };
            let value = value.into_value(&DATA_KEYS);
            if !value.is_null() || known == PUBLIC_IP {
                read.insert(known.to_owned(), value);
            } else if known != BACKEND_TYPE {
                // Go's text stays as it was; everything else is unset.
                read.remove(known);
            }
        }
        serde_json::from_value(Value::Object(read))
    }
}

impl Lease {
    /// The IPv4 underlay address of the node, if the subnet is a part of the overlay `network` and
    /// packets can be sent there.
    pub(crate) fn underlay(&self, network: Subnet) -> Result<IpAddr, LeaseError> {
        let subnet = self.subnet;
        let is_part = network.covers(subnet) && subnet != network;
        if !(subnet.network().is_ipv4() && is_part) {
            return Err(LeaseError::Subnet { subnet, network });
        }
        let public_ip = self.attrs.public_ip;
        if !is_host(public_ip) {
            return Err(LeaseError::PublicIp { subnet, public_ip });
        }
        if subnet.contains(public_ip.into()) {
            return Err(LeaseError::PublicIpInSubnet { subnet, public_ip });
        }
        Ok(IpAddr::V4(public_ip))
    }
}

/// Whether a packet to this address goes to one other node.
fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTRS: &str = r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}}"#;

    #[test]
    fn attributes_are_read_as_go_reads_them() {
        assert_eq!(
            LeaseAttrs::from_json(ATTRS.as_bytes()).unwrap(),
            serde_json::from_str(ATTRS).unwrap()
        );
        for (text, ip) in [
            (r#"{"PublicIP":"1.2.3.4"}"#, Some("1.2.3.4")),
            (
                r#"{"publicip":"1.2.3.4","PUBLICIPV6":null,"more":[1]}"#,
                Some("1.2.3.4"),
            ),
            (
                r#"{"PublicIP":"1.2.3.4","BackendType":null,"BackendData":null}"#,
                Some("1.2.3.4"),
            ),
            (
                r#"{"PublicIP":"9.9.9.9","publicip":"1.2.3.4"}"#,
                Some("1.2.3.4"),
            ),
            (
                r#"{"publicip":"9.9.9.9","PublicIP":"1.2.3.4"}"#,
                Some("1.2.3.4"),
            ),
            (r#"{"PublicIP":null}"#, None),
            (r#"{"PublicIP":"1.2.3"}"#, None),
            (r#"{"PublicIP":"1.2.3.4"} x"#, None),
            ("{}", None),
            ("[]", None),
            ("null", None),
            ("", None),
        ] {
            let read = LeaseAttrs::from_json(text.as_bytes()).ok();
            let read = read.map(|attrs| attrs.public_ip.to_string());
            assert_eq!(read.as_deref(), ip, "{text}");
        }
    }

    #[test]
    fn bare_attributes_are_flannels_to_the_byte() {
        // `TestEtcdRegistry` of flannel.
        let text = r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#;
        let attrs: LeaseAttrs = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&attrs).unwrap(), text);
    }
}
