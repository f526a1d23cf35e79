//! The object agrees with the ABI on its maps and on its version.

use std::collections::BTreeMap;

use aya_obj::Object as ParsedObject;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use twill_abi::{ABI_VERSION, ABI_VERSION_SYMBOL, MAPS, MapSpec, Program};

use super::lab::object;

/// Longest name that the kernel takes, bytes (`BPF_OBJ_NAME_LEN` less the NUL).
const NAME_LENGTH: usize = 15;

/// Kind, key size, value size, entries, flags.
type Shape = (u32, u32, u32, u32, u32);

fn wanted(map: &MapSpec) -> Shape {
    (
        map.kind as u32,
        map.key_size,
        map.value_size,
        map.max_entries,
        map.flags,
    )
}

/// Programs that no packet meets: they count nothing, so the registry does not name them.
const PROBES: [&str; 1] = ["probe_encap"];

#[test]
fn the_maps_are_those_of_the_abi() {
    let Some(bytes) = object() else { return };
    let parsed = ParsedObject::parse(&bytes).expect("parse the object");
    let found: BTreeMap<&str, Shape> = parsed
        .maps
        .iter()
        // Globals are maps to the kernel, and none of the ABI.
        .filter(|(name, _)| !name.starts_with('.'))
        .map(|(name, map)| {
            let shape = (
                map.map_type(),
                map.key_size(),
                map.value_size(),
                map.max_entries(),
                map.map_flags(),
            );
            (name.as_str(), shape)
        })
        .collect();
    let wanted: BTreeMap<&str, Shape> = MAPS.iter().map(|map| (map.name, wanted(map))).collect();
    let differing: Vec<String> = wanted
        .keys()
        .chain(found.keys().filter(|name| !wanted.contains_key(*name)))
        .filter(|name| wanted.get(*name) != found.get(*name))
        .map(|name| {
            format!(
                "{name}: ABI {:?}, object {:?}",
                wanted.get(name),
                found.get(name)
            )
        })
        .collect();
    assert!(
        differing.is_empty(),
        "(kind, key, value, entries, flags)\n{}",
        differing.join("\n")
    );
}

#[test]
fn names_are_shown_whole() {
    let Some(bytes) = object() else { return };
    let parsed = ParsedObject::parse(&bytes).expect("parse the object");
    for name in parsed.programs.keys().chain(parsed.maps.keys()) {
        assert!(
            name.len() <= NAME_LENGTH,
            "{name} has more than {NAME_LENGTH} bytes"
        );
    }
    let counted = Program::ALL.iter().map(|program| program.label());
    let known: Vec<&str> = counted.chain(PROBES).collect();
    for name in parsed.programs.keys() {
        assert!(
            // The guard's other form, for kernels before 5.18.
            known.contains(&name.as_str()) || name == "guard_whole",
            "{name} is no program of the registry"
        );
    }
    for program in [Program::ToOverlay, Program::FromUplink, Program::Guard] {
        assert!(
            parsed.programs.contains_key(program.label()),
            "{} is missing",
            program.label()
        );
    }
}

#[test]
fn the_version_is_in_the_object() {
    let Some(bytes) = object() else { return };
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name() == Ok(ABI_VERSION_SYMBOL));
    let symbol = symbol.unwrap_or_else(|| panic!("the object has no symbol {ABI_VERSION_SYMBOL}"));
    assert_eq!(symbol.size(), 4);
    let section = file.section_by_index(symbol.section_index().expect("in a section"));
    let section = section.expect("its section is there");
    let version = section
        .data_range(symbol.address(), 4)
        .expect("its data is there");
    let version: [u8; 4] = version.expect("four bytes").try_into().expect("four bytes");
    assert_eq!(u32::from_le_bytes(version), ABI_VERSION);
}
