//! docs/abi.md, rendered from the source.

use twill_abi::{ABI_VERSION, MAPS, MapKind, Program, REASONS_PER_PROGRAM, Reason};

use super::structs::STRUCTS;

const VERSION: &str = "ABI_VERSION: ";
const REASONS: &str = "## Reasons";

/// The whole document.
pub(super) fn render() -> String {
    let mut lines = vec![
        "# What the BPF programs and userspace share".to_owned(),
        String::new(),
        "Written by `cargo xtask abi --bless` from `ebpf/abi`; do not edit.".to_owned(),
        "Offsets, sizes and alignments are in bytes.".to_owned(),
        "`reserved` is zero, always.".to_owned(),
        String::new(),
        format!("{VERSION}{ABI_VERSION}"),
        String::new(),
        "## Structs".to_owned(),
    ];
    structs(&mut lines);
    maps(&mut lines);
    reasons(&mut lines);
    lines.push(String::new());
    lines.join("\n")
}

/// The part of a document that the two sides must agree on: all but the reasons, of which
/// new ones may be added, since an old reader shows their number.
pub(super) fn border(document: &str) -> &str {
    document
        .split_once(REASONS)
        .map_or(document, |(border, _)| border)
}

/// The ABI version that a document was written for.
pub(super) fn version(document: &str) -> Option<u32> {
    document
        .lines()
        .find_map(|line| line.strip_prefix(VERSION))?
        .parse()
        .ok()
}

fn structs(lines: &mut Vec<String>) {
    for structure in STRUCTS {
        lines.extend([
            String::new(),
            format!("### {}", structure.name),
            String::new(),
            format!("{} bytes, alignment {}.", structure.size, structure.align),
            String::new(),
            "| offset | size | field |".to_owned(),
            "| ---: | ---: | --- |".to_owned(),
        ]);
        lines.extend(
            structure
                .fields
                .iter()
                .map(|field| format!("| {} | {} | `{}` |", field.offset, field.size, field.name)),
        );
    }
}

fn maps(lines: &mut Vec<String>) {
    lines.extend([
        String::new(),
        "## Maps".to_owned(),
        String::new(),
        "Entries are the object's; the agent's options may say otherwise.".to_owned(),
        String::new(),
        "| map | kind | key | value | entries | flags |".to_owned(),
        "| --- | --- | ---: | ---: | ---: | --- |".to_owned(),
    ]);
    lines.extend(MAPS.iter().map(|map| {
        format!(
            "| `{}` | {} | {} | {} | {} | {:#x} |",
            map.name,
            kind(map.kind),
            map.key_size,
            map.value_size,
            map.max_entries,
            map.flags
        )
    }));
}

const fn kind(kind: MapKind) -> &'static str {
    match kind {
        MapKind::Hash => "hash",
        MapKind::Array => "array",
        MapKind::PerCpuArray => "per-CPU array",
        MapKind::LruHash => "LRU hash",
        MapKind::LpmTrie => "LPM trie",
    }
}

fn reasons(lines: &mut Vec<String>) {
    lines.extend([
        String::new(),
        REASONS.to_owned(),
        String::new(),
        format!("Place in `counters`: program × {REASONS_PER_PROGRAM} + reason."),
        String::new(),
        "| program | label | where |".to_owned(),
        "| ---: | --- | --- |".to_owned(),
    ]);
    lines.extend(Program::ALL.iter().map(|&program| {
        format!(
            "| {} | `{}` | {} |",
            program as u16,
            program.label(),
            program.explanation()
        )
    }));
    lines.extend([
        String::new(),
        "| reason | label | why |".to_owned(),
        "| ---: | --- | --- |".to_owned(),
    ]);
    lines.extend(Reason::ALL.iter().map(|&reason| {
        format!(
            "| {} | `{}` | {} |",
            reason as u16,
            reason.label(),
            reason.explanation()
        )
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_map_and_reason_has_a_line() {
        let document = render();
        for structure in STRUCTS {
            assert!(document.contains(&format!("### {}\n", structure.name)));
        }
        assert!(document.contains("| 32 | 6 | `mac` |"));
        for map in MAPS {
            assert!(
                document.contains(&format!("| `{}` |", map.name)),
                "{}",
                map.name
            );
        }
        for reason in Reason::ALL {
            assert!(document.contains(reason.explanation()), "{reason:?}");
        }
    }

    #[test]
    fn a_document_names_its_version() {
        assert_eq!(version(&render()), Some(ABI_VERSION));
        assert_eq!(version("# x\nABI_VERSION: many\n"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn reasons_are_not_part_of_the_border() {
        let document = render();
        let renamed = document.replace("Carried by BPF", "Taken by BPF");
        assert_ne!(document, renamed);
        assert_eq!(border(&document), border(&renamed));
        let moved = document.replace("| 32 | 6 | `mac` |", "| 34 | 6 | `mac` |");
        assert_ne!(border(&document), border(&moved));
    }
}
