//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// Folds a sum of 16-bit words to 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff).wrapping_add(sum >> 16);
    let twice = (once & 0xffff).wrapping_add(once >> 16);
    twice as u16
}

/// The checksum after one 16-bit word changed from `old` to `new` (RFC 1624, equation 3).
///
/// All three in host byte order.
#[inline(always)]
pub const fn update_word(check: u16, old: u16, new: u16) -> u16 {
    !fold(
        (!check as u32)
            .wrapping_add(!old as u32)
            .wrapping_add(new as u32),
    )
}

/// The checksum after a 32-bit field changed from `old` to `new`, host byte order.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves are what is meant"
)]
pub const fn update_long(check: u16, old: u32, new: u32) -> u16 {
    update_word(
        update_word(check, (old >> 16) as u16, (new >> 16) as u16),
        old as u16,
        new as u16,
    )
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the slow version should look obvious"
)]
mod tests {
    use super::*;

    /// The slow, obvious version.
    fn full(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn an_update_equals_a_full_sum_over_every_identification() {
        let words = |identification: u16| {
            [
                0x4500,
                0x05dc,
                identification,
                0,
                0x4006,
                0,
                0xc000,
                0x0201,
                0xc000,
                0x0202,
            ]
        };
        let start = full(&words(0x1234));
        for identification in 0..=u16::MAX {
            let updated = update_word(start, 0x1234, identification);
            assert_eq!(
                updated,
                full(&words(identification)),
                "identification {identification:#x}"
            );
        }
    }

    #[test]
    fn an_address_counts_as_two_words() {
        let start = full(&[0x4500, 0, 0xc000, 0x0201]);
        assert_eq!(
            update_long(start, 0xc000_0201, 0x0af4_0102),
            full(&[0x4500, 0, 0x0af4, 0x0102])
        );
    }
}
