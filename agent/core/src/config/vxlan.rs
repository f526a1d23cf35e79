//! `Backend`: the settings of the vxlan backend.

use serde_json::Value;

use super::ConfigError;
use super::json::{Fields, Json};
use crate::mtu::{MAX_UNDERLAY_MTU, MIN_UNDERLAY_MTU};
use crate::vtep::Vni;

/// Flannel's default, `defaultVNI` in `pkg/backend/vxlan/vxlan.go`.
const DEFAULT_VNI: u64 = 1;

const RIGHT_BACKEND: &str = "{\"Type\": \"vxlan\"}";

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
    /// Reads the value of `Backend`, and adds to `warnings` what it leaves out of account.
    pub(super) fn from_json(
        backend: Option<&Json>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        // Without the key flannel takes `udp`, whatever its documentation says
        // (`parseBackendType` in `pkg/subnet/config.go`); without `Type`, the empty name.
        let Some(backend) = backend else {
            return Err(unknown_backend("udp", "the default without Backend"));
        };
        let typed = typed(backend).map_err(within("error decoding Backend property of config"))?;
        match typed {
            None => Err(unknown_backend("", "the default without Type")),
            Some((name, fields)) if name.eq_ignore_ascii_case("vxlan") => {
                let config = Self::settings(&fields)
                    .map_err(within("error decoding VXLAN backend config"))?;
                warnings.extend(fields.unknown(&KEYS));
                Ok(config)
            }
            Some((name, _)) => Err(unknown_backend(name, "Backend.Type")),
        }
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

/// The fields of `Backend` and its type, if it has one; `null` has none.
fn typed(backend: &Json) -> Result<Option<(&str, Fields<'_>)>, ConfigError> {
    let object = match backend {
        Json::Object(object) => object,
        Json::Plain(Value::Null) => return Ok(None),
        other @ Json::Plain(_) => {
            return Err(ConfigError::WrongType {
                key: "Backend".to_owned(),
                value: other.to_string(),
                right: RIGHT_BACKEND,
            });
        }
    };
    let fields = Fields::new("Backend.", object);
    let name = fields.string("Type", "\"vxlan\"")?;
    Ok(name.map(|name| (name, fields)))
}

fn within(message: &'static str) -> impl Fn(ConfigError) -> ConfigError {
    move |error| ConfigError::Backend {
        message,
        error: Box::new(error),
    }
}

fn unknown_backend(name: &str, origin: &'static str) -> ConfigError {
    ConfigError::UnknownBackend {
        name: name.chars().take(32).collect(),
        origin,
    }
}
