//! `Backend`: the settings of the vxlan backend.

use super::ConfigError;
use super::json::Fields;
use crate::mtu::{MAX_UNDERLAY_MTU, MIN_UNDERLAY_MTU};
use crate::vtep::Vni;

/// Flannel's default, `defaultVNI` in `pkg/backend/vxlan/vxlan.go`.
const DEFAULT_VNI: u64 = 1;

/// The keys of flannel's configuration struct, and `Type`. `Name` and `MacPrefix` are for
/// Windows only, and count as unknown.
const KEYS: [&str; 7] = [
    "Type",
    "VNI",
    "Port",
    "MTU",
    "GBP",
    "Learning",
    "DirectRouting",
];

/// The vxlan backend's settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VxlanConfig {
    /// VNI, by default 1.
    pub vni: Vni,
    /// UDP destination port; `None` leaves the kernel its default, 8472.
    pub port: Option<u16>,
    /// MTU of the underlay in bytes, where it is not the uplink's.
    pub mtu: Option<u32>,
    /// Group Based Policy extension.
    pub gbp: bool,
    /// FDB learning.
    pub learning: bool,
    /// Plain routes to peers on the same link.
    pub direct_routing: bool,
}

impl VxlanConfig {
    /// Reads the settings, and adds to `warnings` what they leave out of account.
    pub(super) fn read(
        fields: &Fields<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        let config = Self::settings(fields)?;
        warnings.extend(fields.unknown(&KEYS));
        Ok(config)
    }

    fn settings(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let vni_right = "an integer from 0 to 16777215, as 24 bits hold it";
        let vni = fields.integer("VNI", 0..=u64::from(Vni::MAX), vni_right)?;
        let port_right = "a UDP port from 1 to 65535, or 0 for the kernel's default, 8472";
        let port = fields.integer("Port", 0..=u64::from(u16::MAX), port_right)?;
        let mtu_right = "the underlay's MTU in bytes, an integer from 626 to 65535, \
                         or leave the key out to take the uplink's";
        let mtu_range = u64::from(MIN_UNDERLAY_MTU)..=u64::from(MAX_UNDERLAY_MTU);
        let mtu = fields.integer("MTU", mtu_range, mtu_right)?;

        Ok(Self {
            vni: Vni::new(vni.unwrap_or(DEFAULT_VNI)).map_err(|error| {
                fields.invalid("VNI", error.0.to_string(), "out of range", vni_right)
            })?,
            port: port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
            mtu: mtu.and_then(|mtu| u32::try_from(mtu).ok()),
            gbp: fields.boolean("GBP", false)?,
            learning: fields.boolean("Learning", false)?,
            direct_routing: fields.boolean("DirectRouting", false)?,
        })
    }
}
