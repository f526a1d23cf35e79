//! `struct __sk_buff` as `BPF_PROG_TEST_RUN` takes it (`include/uapi/linux/bpf.h`, v6.18).

/// Length of the struct, bytes.
const LENGTH: usize = 192;
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

/// The context of a run: on which device, by which device the stack got the packet (0: by none),
/// with which mark.
pub(super) fn context(ifindex: u32, ingress_ifindex: u32, mark: u32) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for (offset, value) in [
        (MARK, mark),
        (INGRESS_IFINDEX, ingress_ifindex),
        (IFINDEX, ifindex),
    ] {
        let (_, tail) = bytes.split_at_mut(offset);
        let (word, _) = tail.split_at_mut(size_of::<u32>());
        word.copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_where_the_kernel_has_them() {
        let bytes = context(7, 8, 0x1000);
        assert_eq!(bytes[8..12], 0x1000_u32.to_ne_bytes());
        assert_eq!(bytes[36..40], 8_u32.to_ne_bytes());
        assert_eq!(bytes[40..44], 7_u32.to_ne_bytes());
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 3);
    }
}
