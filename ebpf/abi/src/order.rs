//! Integers whose byte order is part of their type.

/// A 16-bit integer in network byte order.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct Be16(u16);

/// A 32-bit integer in network byte order.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct Be32(u32);

impl Be16 {
    /// From a value in host byte order.
    #[inline(always)]
    pub const fn from_host(value: u16) -> Self {
        Self(value.to_be())
    }

    /// From a value that is in network byte order already, as the kernel hands it out.
    #[inline(always)]
    pub const fn from_network(raw: u16) -> Self {
        Self(raw)
    }

    /// From the bytes as they are on the wire.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// The value in host byte order.
    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The value in network byte order, as the kernel takes it.
    #[inline(always)]
    pub const fn to_network(self) -> u16 {
        self.0
    }

    /// The bytes as they are on the wire.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }
}

impl Be32 {
    /// From a value in host byte order.
    #[inline(always)]
    pub const fn from_host(value: u32) -> Self {
        Self(value.to_be())
    }

    /// From a value that is in network byte order already, as the kernel hands it out.
    #[inline(always)]
    pub const fn from_network(raw: u32) -> Self {
        Self(raw)
    }

    /// From the bytes as they are on the wire.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    /// The value in host byte order.
    #[inline(always)]
    pub const fn to_host(self) -> u32 {
        u32::from_be(self.0)
    }

    /// The value in network byte order, as the kernel takes it.
    #[inline(always)]
    pub const fn to_network(self) -> u32 {
        self.0
    }

    /// The bytes as they are on the wire.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}
