//! Headers of VXLAN packets: reading, judging and building them, for BPF and host alike.
//!
//! Everything is a value of alignment 1; nothing here touches memory that it was not
//! handed, panics, or knows what a map is.

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![expect(
    clippy::inline_always,
    reason = "a BPF function call costs what these functions save"
)]

pub mod arp;
pub mod checksum;
pub mod ecn;
pub mod ethernet;
pub mod guard;
pub mod ipv4;
pub mod transport;
pub mod vxlan;

/// What may be read from a packet: a value of alignment 1 without invalid bit patterns.
pub trait Wire: Copy {}

impl<const N: usize> Wire for [u8; N] {}
impl Wire for arp::ArpSender {}
impl Wire for ethernet::EthernetHeader {}
impl Wire for ipv4::Ipv4Header {}
impl Wire for transport::TcpStart {}
impl Wire for transport::UdpHeader {}
impl Wire for transport::IcmpError {}
impl Wire for vxlan::VxlanHeader {}
impl Wire for vxlan::OuterTail {}
impl Wire for vxlan::Headers {}
