//! The list of shared structs.

use twill_abi::layout::Field;
use twill_abi::{
    Config, Counter, FlowTuple, LocalPod, Mapping, Pending, Permit, RouteKey, RoutePrefix,
    Stranger, VethFlags, Vtep, VtepCounter, VtepState,
};

/// A struct that crosses the border.
pub(super) struct Struct {
    pub(super) name: &'static str,
    /// Bytes.
    pub(super) size: usize,
    /// Bytes.
    pub(super) align: usize,
    pub(super) fields: &'static [Field],
}

macro_rules! structs {
    ($($name:ident),+ $(,)?) => {
        &[ $( Struct {
            name: stringify!($name),
            size: size_of::<$name>(),
            align: align_of::<$name>(),
            fields: $name::LAYOUT,
        }, )+ ]
    };
}

/// Every shared struct, by name.
pub(super) const STRUCTS: &[Struct] = structs![
    Config,
    Counter,
    FlowTuple,
    LocalPod,
    Mapping,
    Pending,
    Permit,
    RouteKey,
    RoutePrefix,
    Stranger,
    VethFlags,
    Vtep,
    VtepCounter,
    VtepState,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::places;

    /// A struct that is declared and not listed here would change unseen.
    #[test]
    fn no_struct_is_forgotten() {
        let mut declared = BTreeSet::new();
        for entry in fs::read_dir(places::root().join("ebpf/abi/src")).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            let lines = text.lines().map(str::trim);
            for line in lines.filter(|line| line.contains(", align ")) {
                if let Some(rest) = line.strip_prefix("pub struct ")
                    && let Some((name, _)) = rest.split_once(": ")
                    && !name.starts_with('$')
                {
                    declared.insert(name.to_owned());
                }
            }
        }
        let listed: BTreeSet<String> = STRUCTS.iter().map(|s| s.name.to_owned()).collect();
        assert_eq!(listed, declared);
        assert!(STRUCTS.iter().map(|s| s.name).is_sorted());
    }
}
