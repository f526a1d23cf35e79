//! The MTU of the overlay: what is left of an underlay packet after encapsulation.

use thiserror::Error;
use twill_packet::vxlan::ENCAP_OVERHEAD;

/// The smallest MTU of an underlay, bytes: every IPv4 host must take packets of 576 bytes
/// (RFC 791, section 3.1), so pods must be able to send them.
pub const MIN_UNDERLAY_MTU: u32 = 576 + ENCAP_OVERHEAD;

/// The largest MTU that a configuration may name, bytes: the largest IPv4 packet.
pub const MAX_UNDERLAY_MTU: u32 = 65_535;

/// An underlay whose packets are too small to carry an overlay.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error(
    "MTU of the underlay is {underlay} bytes; at least {MIN_UNDERLAY_MTU} are needed, \
     {ENCAP_OVERHEAD} of them for encapsulation"
)]
pub struct UnderlayMtuTooSmall {
    /// The MTU, bytes.
    pub underlay: u32,
}

/// The overlay's MTU in bytes: for `flannel.<VNI>` and for `FLANNEL_MTU`. `configured` is
/// `Backend.MTU`, which stands for the uplink's; both are of the underlay.
pub fn overlay_mtu(configured: Option<u32>, uplink: u32) -> Result<u32, UnderlayMtuTooSmall> {
    let underlay = configured.unwrap_or(uplink);
    if underlay < MIN_UNDERLAY_MTU {
        return Err(UnderlayMtuTooSmall { underlay });
    }
    Ok(underlay.saturating_sub(ENCAP_OVERHEAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_is_underlay_less_50() {
        let small = |underlay| Err(UnderlayMtuTooSmall { underlay });
        for (configured, uplink, expected) in [
            (None, 1500, Ok(1450)),
            (Some(1450), 1500, Ok(1400)),
            (Some(9000), 1500, Ok(8950)),
            (None, 65_536, Ok(65_486)),
            (None, 626, Ok(576)),
            (None, 625, small(625)),
            (None, 0, small(0)),
            (Some(49), 1500, small(49)),
        ] {
            assert_eq!(
                overlay_mtu(configured, uplink),
                expected,
                "{configured:?} {uplink}"
            );
        }
    }
}
