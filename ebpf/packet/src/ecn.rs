//! Explicit Congestion Notification across a tunnel (RFC 6040).

/// The two ECN bits of a TOS byte.
pub const MASK: u8 = 0b11;
/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// ECN-capable, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// TOS byte of the outer header: the inner ECN bits and DSCP 0, as the kernel's vxlan
/// does by default (`ip_tunnel_ecn_encap`, `include/net/inet_ecn.h`, v6.12): CE becomes
/// ECT(0), every other codepoint is copied.
#[inline(always)]
pub const fn encap(inner_tos: u8) -> u8 {
    match inner_tos & MASK {
        CE => ECT_0,
        other => other,
    }
}

/// What becomes of a packet whose outer header is taken off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decap {
    /// The inner header stays as it is.
    Keep,
    /// The inner ECN bits become these.
    Set(u8),
    /// Dropped: congestion was marked on a packet that cannot carry the mark.
    Drop,
}

/// RFC 6040, section 4.2, figure 4, as `__INET_ECN_decapsulate` has it.
#[inline(always)]
pub const fn decap(outer_tos: u8, inner_tos: u8) -> Decap {
    match (outer_tos & MASK, inner_tos & MASK) {
        (CE, NOT_ECT) => Decap::Drop,
        (CE, ECT_0 | ECT_1) => Decap::Set(CE),
        (ECT_1, ECT_0) => Decap::Set(ECT_1),
        _ => Decap::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decap_is_the_table_of_the_rfc() {
        use Decap::{Drop, Keep, Set};
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE; columns: outer in the same order.
        let table = [
            (NOT_ECT, [Keep, Keep, Keep, Drop]),
            (ECT_0, [Keep, Keep, Set(ECT_1), Set(CE)]),
            (ECT_1, [Keep, Keep, Keep, Set(CE)]),
            (CE, [Keep, Keep, Keep, Keep]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                assert_eq!(
                    decap(outer, inner | 0xb8),
                    expected,
                    "inner {inner} outer {outer}"
                );
            }
        }
    }

    #[test]
    fn encap_keeps_the_dscp_inside() {
        assert_eq!(
            [0xb8, 0xb9, 0xba, 0xbb].map(encap),
            [NOT_ECT, ECT_1, ECT_0, ECT_0]
        );
    }
}
