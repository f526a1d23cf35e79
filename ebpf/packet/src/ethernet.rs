//! Ethernet.

/// Length of an untagged Ethernet header in bytes.
pub const ETHERNET_LEN: u32 = 14;

/// An `EtherType`, host byte order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: Self = Self(0x8100);
    /// A provider's VLAN tag (IEEE 802.1ad).
    pub const PROVIDER_VLAN: Self = Self(0x88a8);

    /// Whether a VLAN tag follows.
    #[inline(always)]
    pub fn is_vlan(self) -> bool {
        self == Self::VLAN || self == Self::PROVIDER_VLAN
    }
}

/// An untagged Ethernet header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct EthernetHeader {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// `EtherType`, network byte order.
    pub ether_type: [u8; 2],
}

impl EthernetHeader {
    /// The `EtherType`.
    #[inline(always)]
    pub fn ether_type(&self) -> EtherType {
        EtherType(u16::from_be_bytes(self.ether_type))
    }
}
