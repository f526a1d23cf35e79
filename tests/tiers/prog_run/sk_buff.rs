//! `struct __sk_buff`, as `BPF_PROG_TEST_RUN` takes and gives it (`include/uapi/linux/bpf.h`
//! and `convert___skb_to_skb()` in `net/bpf/test_run.c`, v6.18): all other fields must be
//! zero, `hash`, `vlan_present` and the GSO type among them.

/// Length of the struct, bytes.
const LENGTH: usize = 192;
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const CB: usize = 48;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;

/// The fields of the context that a case sets or looks at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct SkBuff {
    /// `skb->mark`.
    pub(crate) mark: u32,
    /// The device that the stack got it by; 0: the one that the program is made for, or none.
    pub(crate) ingress_ifindex: u32,
    /// The device that the packet is on; 0: the one that the program is made for.
    pub(crate) ifindex: u32,
    /// Bytes of payload in each segment; 0: no GSO packet. Not given back by the kernel.
    pub(crate) gso_size: u32,
    /// Segments.
    pub(crate) gso_segs: u32,
    /// Words for the program that is next in the chain.
    pub(crate) cb: [u32; 5],
}

impl SkBuff {
    /// As the kernel reads it.
    pub(crate) fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let fields = [
            (MARK, self.mark),
            (INGRESS_IFINDEX, self.ingress_ifindex),
            (IFINDEX, self.ifindex),
            (GSO_SEGS, self.gso_segs),
            (GSO_SIZE, self.gso_size),
        ];
        let words = (0..).map(|place| CB + 4 * place).zip(self.cb);
        for (offset, value) in fields.into_iter().chain(words) {
            bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    /// As the kernel wrote it.
    pub(crate) fn from_bytes(bytes: &[u8; LENGTH]) -> Self {
        let word = |offset: usize| {
            let word = bytes[offset..offset + 4].try_into();
            u32::from_ne_bytes(word.expect("four bytes"))
        };
        Self {
            mark: word(MARK),
            ingress_ifindex: word(INGRESS_IFINDEX),
            ifindex: word(IFINDEX),
            gso_size: word(GSO_SIZE),
            gso_segs: word(GSO_SEGS),
            cb: [0, 4, 8, 12, 16].map(|offset| word(CB + offset)),
        }
    }
}

#[test]
fn the_context_survives_the_round_trip() {
    let context = SkBuff {
        mark: 1,
        ingress_ifindex: 10,
        ifindex: 2,
        gso_size: 3,
        gso_segs: 4,
        cb: [5, 6, 7, 8, 9],
    };
    assert_eq!(SkBuff::from_bytes(&context.to_bytes()), context);
}
