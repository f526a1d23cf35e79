//! Leases: a subnet held by a node, with the attributes that flannel publishes.

mod data;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

pub use self::data::BackendData;

use crate::config::json::{Json, Object};
use crate::subnet::Subnet;
use crate::vtep::{MacAddr, RemoteVtep, Vni};

/// The keys of [`VxlanData`].
const VXLAN_KEYS: [&str; 2] = ["VNI", "VtepMAC"];

/// `BackendType` of the leases that are ours.
const VXLAN: &str = "vxlan";

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
        let value = Json::deserialize(deserializer)?.into_value(&VXLAN_KEYS);
        if !value.is_object() {
            return Err(D::Error::custom("it is no object"));
        }
        let Exact { vni, vtep_mac } = Exact::deserialize(value).map_err(D::Error::custom)?;
        let vni = vni.unwrap_or_default();
        Ok(Self { vni, vtep_mac })
    }
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
    #[error("BackendType of {subnet} is {backend_type:?}, not \"vxlan\"")]
    OtherBackend {
        /// The lease.
        subnet: Subnet,
        /// The other backend's name, shortened.
        backend_type: String,
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
            let value = value.into_value(&VXLAN_KEYS);
            if !value.is_null() || known == PUBLIC_IP {
                read.insert(known.to_owned(), value);
            } else if known != BACKEND_TYPE {
                // Go's text stays as it was; everything else is unset.
                read.remove(known);
            }
        }
        serde_json::from_value(Value::Object(read))
    }

    /// What a node with the vxlan backend publishes.
    pub fn vxlan(public_ip: Ipv4Addr, vni: Vni, mac: MacAddr) -> Self {
        let data = [
            ("VNI", Value::from(vni.get())),
            ("VtepMAC", Value::from(mac.to_string())),
        ];
        let data = data.map(|(key, value)| (key.to_owned(), value));
        Self {
            public_ip,
            public_ipv6: None,
            backend_type: VXLAN.to_owned(),
            backend_data: Some(BackendData::from(&Value::Object(
                data.into_iter().collect(),
            ))),
            backend_v6_data: None,
        }
    }
}

impl Lease {
    /// The VTEP that this lease names, if it is a vxlan lease in the overlay `network`
    /// that packets can be sent to. Whether it is the own lease is not looked at.
    pub fn remote_vtep(&self, network: Subnet) -> Result<RemoteVtep, LeaseError> {
        let subnet = self.subnet;
        let attrs = &self.attrs;
        if attrs.backend_type != VXLAN {
            let backend_type = attrs.backend_type.chars().take(32).collect();
            return Err(LeaseError::OtherBackend {
                subnet,
                backend_type,
            });
        }
        let is_part = network.covers(subnet) && subnet != network;
        if !(subnet.network().is_ipv4() && is_part) {
            return Err(LeaseError::Subnet { subnet, network });
        }
        let public_ip = attrs.public_ip;
        if !is_host(public_ip) {
            return Err(LeaseError::PublicIp { subnet, public_ip });
        }
        if subnet.contains(public_ip.into()) {
            return Err(LeaseError::PublicIpInSubnet { subnet, public_ip });
        }
        let mac = self.vtep_mac()?;
        if !mac.is_unicast() {
            return Err(LeaseError::Mac { subnet, mac });
        }
        let underlay = IpAddr::V4(public_ip);
        Ok(RemoteVtep { underlay, mac })
    }

    fn vtep_mac(&self) -> Result<MacAddr, LeaseError> {
        let subnet = self.subnet;
        let Some(data) = &self.attrs.backend_data else {
            return Err(LeaseError::NoBackendData { subnet });
        };
        let data =
            VxlanData::deserialize(data.value()).map_err(|source| LeaseError::BackendData {
                subnet,
                value: data.as_str().chars().take(128).collect(),
                source,
            })?;
        Ok(data.vtep_mac)
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
    const MAC: MacAddr = MacAddr([0x12, 0xc6, 0x65, 0x89, 0xb4, 0xe3]);

    fn network() -> Subnet {
        "10.3.0.0/16".parse().unwrap()
    }

    /// A good lease of `subnet`, in which `from` is replaced by `to`.
    fn lease(subnet: &str, from: &str, to: &str) -> Lease {
        assert!(ATTRS.contains(from), "{from} is not in the text");
        Lease {
            subnet: subnet.parse().unwrap(),
            attrs: serde_json::from_str(&ATTRS.replace(from, to)).unwrap(),
            ttl_seconds: Some(86_400),
        }
    }

    #[test]
    fn attributes_are_flannels_to_the_byte() {
        let attrs = LeaseAttrs::vxlan(Ipv4Addr::new(1, 2, 3, 4), Vni::new(1).unwrap(), MAC);
        assert_eq!(serde_json::to_string(&attrs).unwrap(), ATTRS);
        assert_eq!(serde_json::from_str::<LeaseAttrs>(ATTRS).unwrap(), attrs);
    }

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
    fn backend_data_is_read_as_go_reads_it() {
        let read = |data: &str| {
            let text = format!(
                r#"{{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendType":null,"BackendData":{data}}}"#
            );
            let attrs = LeaseAttrs::from_json(text.as_bytes()).unwrap();
            let subnet = "10.3.7.0/24".parse().unwrap();
            let lease = Lease {
                subnet,
                attrs,
                ttl_seconds: None,
            };
            lease
                .remote_vtep(network())
                .map(|vtep| vtep.mac.to_string())
        };
        for (data, mac) in [
            (
                r#"{"vtepmac":"12:c6:65:89:b4:e3"}"#,
                Some("12:c6:65:89:b4:e3"),
            ),
            (
                r#"{"vni":1,"VTEPMAC":"12-C6-65-89-B4-E3"}"#,
                Some("12:c6:65:89:b4:e3"),
            ),
            (
                r#"{"VNI":null,"VtepMAC":"12c6.6589.b4e3"}"#,
                Some("12:c6:65:89:b4:e3"),
            ),
            (
                r#"{"VtepMAC":"02:00:00:00:00:01","vtepmac":"02:00:00:00:00:02"}"#,
                Some("02:00:00:00:00:02"),
            ),
            (
                r#"{"vtepmac":"02:00:00:00:00:01","VtepMAC":"02:00:00:00:00:02"}"#,
                Some("02:00:00:00:00:02"),
            ),
            (r#"{"VtepMAC":null}"#, None),
            (r#"{"VNI":"1","VtepMAC":"12:c6:65:89:b4:e3"}"#, None),
            (
                r#"{"VtepMAC":"12:c6:65:89:b4:e3"},"backenddata":null"#,
                None,
            ),
            (r#"["1","12:c6:65:89:b4:e3"]"#, None),
        ] {
            assert_eq!(read(data).ok().as_deref(), mac, "{data}");
        }
    }

    #[test]
    fn bare_attributes_are_flannels_to_the_byte() {
        // `TestEtcdRegistry` of flannel.
        let text = r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#;
        let attrs: LeaseAttrs = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&attrs).unwrap(), text);
    }

    #[test]
    fn vxlan_lease_names_a_vtep() {
        let expected = RemoteVtep {
            underlay: Ipv4Addr::new(1, 2, 3, 4).into(),
            mac: MAC,
        };
        for (from, to) in [
            ("1", "1"),
            // A peer's VNI is ignored, and may be missing.
            (r#""VNI":1,"#, ""),
            (r#""VNI":1,"#, r#""VNI":4294967295,"#),
            (r#""VNI":1,"#, r#""More":[],"#),
            ("12:c6:65:89:b4:e3", "12:C6:65:89:B4:E3"),
        ] {
            let vtep = lease("10.3.7.0/24", from, to).remote_vtep(network());
            assert_eq!(vtep.unwrap(), expected, "{to}");
        }
    }

    #[test]
    fn other_backends_are_told_apart() {
        for (from, to, other) in [
            (r#""vxlan""#, r#""host-gw""#, "host-gw"),
            (r#""vxlan""#, r#""VXLAN""#, "VXLAN"),
            (r#""BackendType":"vxlan","#, "", ""),
        ] {
            match lease("10.3.7.0/24", from, to).remote_vtep(network()) {
                Err(LeaseError::OtherBackend { backend_type, .. }) => {
                    assert_eq!(backend_type, other);
                }
                result => panic!("{to}: {result:?}"),
            }
        }
    }

    #[test]
    fn what_packets_cannot_be_sent_to_is_refused() {
        const DATA: &str = r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#;
        const IN: &str = "10.3.7.0/24";
        for (subnet, from, to, expected) in [
            (
                IN,
                "1.2.3.4",
                "0.0.0.0",
                "PublicIP of 10.3.7.0/24 is 0.0.0.0; ",
            ),
            (
                IN,
                "1.2.3.4",
                "127.0.0.1",
                "PublicIP of 10.3.7.0/24 is 127.0.0.1; ",
            ),
            (
                IN,
                "1.2.3.4",
                "224.0.0.1",
                "PublicIP of 10.3.7.0/24 is 224.0.0.1; ",
            ),
            (
                IN,
                "1.2.3.4",
                "255.255.255.255",
                "PublicIP of 10.3.7.0/24 is 255.255.255.255; ",
            ),
            (
                IN,
                "1.2.3.4",
                "10.3.7.1",
                "PublicIP of 10.3.7.0/24 is 10.3.7.1, in the lease's own",
            ),
            (IN, DATA, "null", "BackendData of 10.3.7.0/24 is missing; "),
            (IN, DATA, "[]", "BackendData of 10.3.7.0/24 is []; "),
            (
                IN,
                DATA,
                r#"{"VNI":1}"#,
                "BackendData of 10.3.7.0/24 is {\"VNI\":1}; ",
            ),
            (
                IN,
                "12:c6:65:89:b4:e3",
                "12:c6",
                "BackendData of 10.3.7.0/24 is {",
            ),
            (IN, "12:c6:65", "00:00:00", "ok"),
            (
                IN,
                "12:c6:65:89:b4:e3",
                "00:00:00:00:00:00",
                "VtepMAC of 10.3.7.0/24 is 00:00:",
            ),
            (
                IN,
                "12:c6",
                "13:c6",
                "VtepMAC of 10.3.7.0/24 is 13:c6:65:89:b4:e3; ",
            ),
            (
                IN,
                "12:c6:65:89:b4:e3",
                "ff:ff:ff:ff:ff:ff",
                "VtepMAC of 10.3.7.0/24 is ff:ff",
            ),
            (
                "10.4.7.0/24",
                "1",
                "1",
                "subnet 10.4.7.0/24 is not a part of the overlay 10.3.0.0/16",
            ),
            (
                "10.3.0.0/16",
                "1",
                "1",
                "subnet 10.3.0.0/16 is not a part of",
            ),
            (
                "10.2.0.0/15",
                "1",
                "1",
                "subnet 10.2.0.0/15 is not a part of",
            ),
            ("0.0.0.0/0", "1", "1", "subnet 0.0.0.0/0 is not a part of"),
            ("fd00::/64", "1", "1", "subnet fd00::/64 is not a part of"),
        ] {
            let result = lease(subnet, from, to).remote_vtep(network());
            let text = result.map_or_else(|error| error.to_string(), |_| "ok".to_owned());
            assert!(text.starts_with(expected), "{subnet} {to}: {text}");
        }
    }
}
