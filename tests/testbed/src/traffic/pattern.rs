//! Bytes that tell where in a stream they belong.

use anyhow::{Result, bail};

/// A prime, so that no packet, segment or page boundary falls in step with it.
const PERIOD: u64 = 251;

/// `length` bytes of the stream from `offset` on.
pub(crate) fn bytes(offset: u64, length: usize) -> Vec<u8> {
    (offset..).take(length).map(byte).collect()
}

/// Whether `received` is what the stream has at `offset`.
pub(crate) fn check(offset: u64, received: &[u8]) -> Result<()> {
    for (place, got) in (offset..).zip(received) {
        let want = byte(place);
        if *got != want {
            bail!("byte {place} of the stream is {got:#04x} and should be {want:#04x}");
        }
    }
    Ok(())
}

fn byte(place: u64) -> u8 {
    // The second term breaks the period, so that a shift by one period is seen too.
    ((place % PERIOD) ^ (place / PERIOD % 7)).to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_lost_or_shifted_byte_is_seen() {
        let good = bytes(1000, 500);
        check(1000, &good).unwrap();
        let mut changed = good.clone();
        changed[77] ^= 1;
        assert!(check(1000, &changed).is_err());
        assert!(check(1000, &good[1..]).is_err());
        assert!(check(1000 + PERIOD, &good).is_err());
    }
}
