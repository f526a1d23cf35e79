//! VXLAN headers (RFC 7348, 5).

/// "The VNI is valid", the one flag of RFC 7348, in [`Vxlan::flags`].
pub const VXLAN_I: u32 = 0x0800_0000;

/// A VXLAN header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Vxlan {
    /// The first word, host order: flags, and bits that must be zero.
    pub flags: u32,
    /// VNI, 24 bits.
    pub vni: u32,
    /// The last byte, zero if it does not lie.
    pub reserved: u8,
}

impl Vxlan {
    /// Length of the header, bytes.
    pub const LENGTH: usize = 8;

    /// A header with a lone I flag.
    pub const fn new(vni: u32) -> Self {
        Self {
            flags: VXLAN_I,
            vni,
            reserved: 0,
        }
    }

    /// The UDP payload: this header and the inner frame.
    #[must_use]
    pub fn over(&self, inner: &[u8]) -> Vec<u8> {
        assert!(self.vni < 1 << 24, "a VNI has 24 bits");
        let mut bytes = Vec::with_capacity(Self::LENGTH + inner.len());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend((self.vni << 8 | u32::from(self.reserved)).to_be_bytes());
        bytes.extend(inner);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vni_is_in_the_upper_three_bytes() {
        assert_eq!(
            Vxlan::new(0x01_0203).over(&[0xff]),
            [8, 0, 0, 0, 1, 2, 3, 0, 0xff]
        );
    }
}
