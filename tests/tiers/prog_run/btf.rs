//! Every shared struct has the same layout in the object's BTF as in this binary: a stale
//! object, or one built from another source, does not.
//!
//! BTF is read here by hand (`Documentation/bpf/btf.rst`, v6.18): the loader's reader keeps
//! members to itself.

use std::collections::BTreeMap;

use object::{Object as _, ObjectSection as _};
use twill_abi::layout::Field;
use twill_abi::{
    Config, Counter, FlowTuple, Mapping, Pending, Permit, RouteKey, RoutePrefix, VethFlags, Vtep,
    VtepCounter, VtepState,
};

use super::lab::object;

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// Size in bytes, and the offsets in bytes of the members by name.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Layout {
    size: usize,
    members: BTreeMap<String, usize>,
}

fn wanted(size: usize, fields: &[Field]) -> Layout {
    let members = fields
        .iter()
        .map(|field| (field.name.to_owned(), field.offset))
        .collect();
    Layout { size, members }
}

macro_rules! shared {
    ($($name:ident),+ $(,)?) => {
        [$( (stringify!($name), wanted(size_of::<$name>(), $name::LAYOUT)) ),+]
    };
}

/// Structs that are keys or values of maps in the object.
fn in_maps() -> Vec<(&'static str, Layout)> {
    shared!(
        Config,
        Counter,
        FlowTuple,
        Mapping,
        Pending,
        Permit,
        RouteKey,
        VethFlags,
        Vtep,
        VtepCounter,
        VtepState,
    )
    .into()
}

/// Structs that reach BTF in no shape to compare: `odd_routes` is declared with the key type of
/// the BPF library.
fn not_in_btf() -> Vec<&'static str> {
    let none: [(&str, Layout); 1] = shared!(RoutePrefix);
    none.map(|(name, _)| name).into()
}

#[test]
fn structs_have_the_layout_of_the_abi() {
    let Some(bytes) = object() else { return };
    let structs = structs(&bytes);
    for (name, wanted) in in_maps() {
        let found = structs
            .get(name)
            .unwrap_or_else(|| panic!("BTF has no struct {name}"));
        assert_eq!(found, &[wanted], "{name}");
    }
    // When one of these appears it belongs into the list above.
    for name in not_in_btf() {
        assert!(
            !structs.contains_key(name),
            "{name} reaches BTF now: compare it"
        );
    }
}

/// Every struct of the object's BTF by name.
fn structs(object: &[u8]) -> BTreeMap<String, Vec<Layout>> {
    let file = object::File::parse(object).expect("an ELF file");
    let section = file.section_by_name(".BTF").expect("the object has BTF");
    let btf = section.data().expect("the section has data");
    let word = |offset: usize| u32_at(btf, offset);

    assert_eq!(u16::from_le_bytes([btf[0], btf[1]]), MAGIC);
    let header_length = word(4) as usize;
    let types = header_length + word(8) as usize..header_length + (word(8) + word(12)) as usize;
    let strings = header_length + word(16) as usize;
    let name_at = |offset: usize| {
        let text = &btf[strings + offset..];
        let end = text
            .iter()
            .position(|byte| *byte == 0)
            .expect("names end with NUL");
        String::from_utf8_lossy(&text[..end]).into_owned()
    };

    let mut found: BTreeMap<String, Vec<Layout>> = BTreeMap::new();
    let mut at = types.start;
    while at < types.end {
        let (name, info, size) = (word(at) as usize, word(at + 4), word(at + 8) as usize);
        let (count, kind) = ((info & 0xffff) as usize, info >> 24 & 0x1f);
        let bitfields = info >> 31 == 1;
        at += 12;
        if kind == KIND_STRUCT {
            let members = (0..count).map(|member| {
                let member = at + 12 * member;
                let bits = word(member + 8);
                let bits = if bitfields { bits & 0x00ff_ffff } else { bits };
                (name_at(word(member) as usize), bits as usize / 8)
            });
            let members = members.collect();
            found
                .entry(name_at(name))
                .or_default()
                .push(Layout { size, members });
        }
        at += match kind {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
            KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
            _ => 0,
        };
    }
    found
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let word = bytes[offset..offset + 4].try_into();
    u32::from_le_bytes(word.expect("four bytes"))
}
