//! The BPF object inside the binary, and whether it is the one that this agent knows.

use aya_obj::Object;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use thiserror::Error;
use twill_abi::{ABI_VERSION, ABI_VERSION_SYMBOL, MAPS, MapSpec};

/// The object as `cargo xtask build` made it; empty in a binary built without it.
pub const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/twill.o"));

/// What `--version` says: the version, for which target and how it was built, and with which
/// programs.
pub const BUILD: &str = env!("TWILL_BUILD");

/// Why the object cannot be used.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// There is none.
    #[error("this binary was built without the BPF programs: run `cargo xtask build`")]
    Absent,
    /// It is no BPF object.
    #[error("the BPF object cannot be read: {0}")]
    Unreadable(String),
    /// It was built from another version of the sources.
    #[error(
        "the BPF object has ABI version {found:?}, this agent {ABI_VERSION}: run `cargo xtask build`"
    )]
    AbiVersion {
        /// Its version, if it says one.
        found: Option<u32>,
    },
    /// It has a map that the ABI does not.
    #[error("the BPF object's map {0} is not in the ABI: run `cargo xtask build`")]
    UnknownMap(String),
    /// One of its maps has another shape.
    #[error(
        "the BPF object's map {map} has {what} {found}, the ABI {expected}: run `cargo xtask build`"
    )]
    MapShape {
        /// Its name.
        map: &'static str,
        /// Type, key size or value size.
        what: &'static str,
        /// In the object.
        found: u32,
        /// In the ABI.
        expected: u32,
    },
}

/// Checks the object and names the maps that it brings.
pub fn check(bytes: &[u8]) -> Result<Vec<&'static MapSpec>, ObjectError> {
    if bytes.is_empty() {
        return Err(ObjectError::Absent);
    }
    let found = abi_version(bytes)?;
    if found != Some(ABI_VERSION) {
        return Err(ObjectError::AbiVersion { found });
    }
    let parsed =
        Object::parse(bytes).map_err(|error| ObjectError::Unreadable(error.to_string()))?;
    let mut specs = Vec::new();
    for (name, map) in &parsed.maps {
        // Read-only data and the like: the loader's own, named after their section.
        if name.starts_with('.') {
            continue;
        }
        let spec = MAPS
            .iter()
            .find(|spec| spec.name == name)
            .ok_or_else(|| ObjectError::UnknownMap(name.clone()))?;
        for (what, found, expected) in [
            ("type", map.map_type(), spec.kind as u32),
            ("key size", map.key_size(), spec.key_size),
            ("value size", map.value_size(), spec.value_size),
        ] {
            if found != expected {
                return Err(ObjectError::MapShape {
                    map: spec.name,
                    what,
                    found,
                    expected,
                });
            }
        }
        specs.push(spec);
    }
    specs.sort_by_key(|spec| spec.name);
    Ok(specs)
}

fn abi_version(bytes: &[u8]) -> Result<Option<u32>, ObjectError> {
    let file =
        object::File::parse(bytes).map_err(|error| ObjectError::Unreadable(error.to_string()))?;
    let Some(symbol) = file.symbol_by_name(ABI_VERSION_SYMBOL) else {
        return Ok(None);
    };
    let value = symbol
        .section_index()
        .and_then(|index| file.section_by_index(index).ok())
        .and_then(|section| section.data_range(symbol.address(), 4).ok().flatten())
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_without_programs_says_how_to_get_them() {
        let error = check(&[]).unwrap_err();
        assert!(error.to_string().contains("cargo xtask build"), "{error}");
    }

    #[test]
    fn rubbish_is_refused() {
        for rubbish in [&b"x"[..], &[0; 64], b"\x7fELF\x02\x01\x01"] {
            assert!(matches!(check(rubbish), Err(ObjectError::Unreadable(_))));
        }
    }
}
