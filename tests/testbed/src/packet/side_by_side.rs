//! Two packets beside each other.

use std::fmt::Write as _;

use super::decode;

/// Both packets decoded, line by line; `≠` where they differ, then the first byte that does.
pub fn side_by_side(left_title: &str, left: &[u8], right_title: &str, right: &[u8]) -> String {
    let (left_lines, right_lines) = (decode(left), decode(right));
    let width = left_lines
        .iter()
        .map(String::len)
        .chain([left_title.len()])
        .max()
        .unwrap_or_default();

    let mut text = format!("  {left_title:width$}   {right_title}\n");
    for row in 0..left_lines.len().max(right_lines.len()) {
        let left = left_lines.get(row).map_or("", String::as_str);
        let right = right_lines.get(row).map_or("", String::as_str);
        let sign = if left == right { ' ' } else { '≠' };
        writeln!(text, "  {left:width$} {sign} {right}").expect("a string takes everything");
    }
    if let Some(place) = first_difference(left, right) {
        let byte = |bytes: &[u8]| {
            bytes
                .get(place)
                .map_or("none".to_owned(), |b| format!("{b:02x}"))
        };
        let (left, right) = (byte(left), byte(right));
        writeln!(
            text,
            "  first difference at byte {place}: {left} and {right}"
        )
        .expect("a string takes everything");
    }
    text
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    (0..left.len().max(right.len())).find(|&place| left.get(place) != right.get(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_difference_is_named() {
        let text = side_by_side("in", &[0, 1, 2], "out", &[0, 1, 3, 4]);
        assert!(
            text.contains("first difference at byte 2: 02 and 03"),
            "{text}"
        );
        assert!(text.contains('≠'), "{text}");
    }

    #[test]
    fn equal_packets_have_none() {
        let text = side_by_side("in", &[7; 20], "out", &[7; 20]);
        assert!(
            !text.contains('≠') && !text.contains("difference"),
            "{text}"
        );
    }
}
