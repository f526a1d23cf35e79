//! `Backend`: which one, and its settings.

use serde_json::Value;

use super::json::{Fields, Json};
use super::{ConfigError, VxlanConfig};
use crate::backend::Backend;

const RIGHT_BACKEND: &str = "{\"Type\": \"vxlan\"}";

/// Reads the value of `Backend`, and adds to `warnings` what it leaves out of account.
pub(super) fn read(
    backend: Option<&Json>,
    warnings: &mut Vec<String>,
) -> Result<Backend, ConfigError> {
    // Without the key flannel takes `udp`, whatever its documentation says
    // (`parseBackendType` in `pkg/subnet/config.go`); without `Type`, the empty name.
    let Some(backend) = backend else {
        return Err(unknown_backend("udp", "the default without Backend"));
    };
    let typed = typed(backend).map_err(within("error decoding Backend property of config"))?;
    let Some((name, fields)) = typed else {
        return Err(unknown_backend("", "the default without Type"));
    };
    match name.to_ascii_lowercase().as_str() {
        "vxlan" => VxlanConfig::read(&fields, warnings)
            .map(Backend::Vxlan)
            .map_err(within("error decoding VXLAN backend config")),
        "host-gw" => {
            warnings.extend(fields.unknown(&["Type"]));
            Ok(Backend::HostGw)
        }
        _ => Err(unknown_backend(name, "Backend.Type")),
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
