//! The packet: bounds-checked reads, and writes by helper.
//!
//! Reads go straight to the packet's memory. Writes never do: a program that stores into the
//! packet directly gets a prologue from the kernel that copies every cloned skb, and TCP sends
//! nothing but clones (`bpf_unclone_prologue`, `net/core/filter.c`, v6.12).

#![expect(unsafe_code, reason = "the context and the packet are raw memory")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_lossless,
    reason = "sizes of headers, and answers of helpers that are declared wider than they are"
)]

use core::arch::asm;
use core::mem::offset_of;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_CSUM_LEVEL_DEC, BPF_CSUM_LEVEL_INC,
    BPF_CSUM_LEVEL_QUERY, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_FIB_LKUP_RET_FWD_DISABLED,
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LOOKUP_DIRECT,
    bpf_adj_room_mode, bpf_fib_lookup, xdp_md,
};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::{TcContext, XdpContext};
use twill_abi::{Be16, Be32};
use twill_packet::Wire;
use twill_packet::ethernet::ETHERNET_LEN;
use twill_packet::guard::Bytes;
use twill_packet::vxlan::ENCAP_OVERHEAD;

/// `BPF_HDR_START_NET`.
const BPF_HDR_START_NET: u32 = 1;
/// `AF_INET`.
const AF_INET: u8 = 2;
/// `LOOPBACK_IFINDEX`: the index of `lo` in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
/// No such device.
const ENODEV: i64 = 19;

/// A packet under a TC program.
pub struct Packet {
    skb: *mut __sk_buff,
}

/// A packet under a TC program, read from its IP header on, whatever is in front of it.
pub struct Bare<'a>(pub &'a Packet);

/// A frame under an XDP program.
///
/// `SPLIT`: the frame may lie in several pieces, of which the first may hold no byte
/// (mlx5 with striding receive queues, for one). Kernels from 5.18 have such frames, and the
/// helpers that read them; older ones refuse a program that names those helpers.
pub struct Frame<const SPLIT: bool> {
    md: *mut xdp_md,
}

/// A question to the kernel's routing, and its answer: 64 bytes that large programs, of whose
/// stack kernels before 6.6 leave them little, keep elsewhere.
pub type FibParams = bpf_fib_lookup;

/// Such a question that asks nothing yet, for the stack.
#[inline(always)]
pub fn fib_params() -> FibParams {
    // SAFETY: the struct is plain integers; all zero is a value.
    unsafe { core::mem::zeroed() }
}

/// What the kernel's routing says of a destination.
pub enum Fib {
    /// Route and neighbour are there.
    Found(NextHop),
    /// There is a route, but no neighbour entry yet.
    NoNeighbour,
    /// Anything else.
    Unusable,
}

/// A resolved next hop.
#[derive(Clone, Copy)]
pub struct NextHop {
    /// Interface index.
    pub ifindex: u32,
    /// MAC address of the interface.
    pub source_mac: [u8; 6],
    /// MAC address of the neighbour.
    pub mac: [u8; 6],
    /// Largest IP packet that the route takes, bytes.
    pub mtu: u32,
}

/// Why no outer headers could be added or taken off.
pub struct Refused;

macro_rules! context {
    ($($(#[$meta:meta])+ $name:ident: $type:ty;)+) => { $(
        $(#[$meta])+
        #[inline(always)]
        pub fn $name(&self) -> $type {
            // SAFETY: the verifier checks reads of the context against its layout.
            unsafe { (*self.skb).$name }
        }
    )+ };
}

impl Packet {
    /// The packet of a TC program's context.
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self {
            skb: ctx.as_ptr().cast(),
        }
    }

    context! {
        /// Length with the Ethernet header, bytes.
        len: u32;
        /// The packet mark.
        mark: u32;
        /// Interface index that the program sits on.
        ifindex: u32;
        /// Interface index that the stack last got the packet by; 0 where this host made it, and
        /// for what a tunnel device of the kernel has just encapsulated (`skb_scrub_packet()`,
        /// `net/core/skbuff.c`, v6.12).
        ingress_ifindex: u32;
        /// The flow hash, as it stands.
        hash: u32;
        /// Length of a segment's payload where the packet is a GSO packet, bytes; else 0.
        gso_size: u32;
    }

    /// Whether the packet carries a VLAN tag beside its bytes.
    #[inline(always)]
    pub fn has_vlan_tag(&self) -> bool {
        // SAFETY: the verifier checks reads of the context against its layout.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    /// Sets the packet mark.
    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        // SAFETY: the mark is a field that TC programs may write.
        unsafe { (*self.skb).mark = mark };
    }

    /// Takes a bit off the packet mark; whether it was there.
    #[inline(always)]
    pub fn take_mark_bit(&self, bit: u32) -> bool {
        let mark = self.mark();
        let was_there = mark & bit != 0;
        if was_there {
            self.set_mark(mark & !bit);
        }
        was_there
    }

    /// Where the packet's linear part begins and ends.
    ///
    /// By assembly: the context holds both as `u32`, and what the compiler does to widen one
    /// makes the verifier forget that it is a packet pointer.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let (data, end): (usize, usize);
        // SAFETY: two reads of the context, which the verifier checks against its layout.
        unsafe {
            asm!(
                "{data} = *(u32 *)({skb} + {data_offset})",
                "{end} = *(u32 *)({skb} + {end_offset})",
                skb = in(reg) self.skb,
                data = out(reg) data,
                end = lateout(reg) end,
                data_offset = const offset_of!(__sk_buff, data),
                end_offset = const offset_of!(__sk_buff, data_end),
                options(nostack, readonly),
            );
        }
        (data, end)
    }

    /// Copies a value out of the packet, if the linear part reaches that far.
    #[inline(always)]
    pub fn get<T: Wire>(&self, offset: u32) -> Option<T> {
        const { assert!(align_of::<T>() == 1, "packet memory has no alignment") };
        let (data, end) = self.bounds();
        let start = data + offset as usize;
        if start + size_of::<T>() > end {
            return None;
        }
        // SAFETY: the range was checked against `data_end` just above; `T: Wire` has alignment 1
        // and no invalid bit pattern.
        Some(unsafe { *(start as *const T) })
    }

    /// Like [`Self::get`], after making that part linear where it is not.
    #[inline(always)]
    pub fn fetch<T: Wire>(&self, offset: u32) -> Option<T> {
        if let Some(value) = self.get(offset) {
            return Some(value);
        }
        let needed = offset + size_of::<T>() as u32;
        if self.len() < needed {
            return None;
        }
        // SAFETY: the helper takes any context and length; packet pointers are read anew after it.
        if unsafe { helpers::bpf_skb_pull_data(self.skb, needed) } != 0 {
            return None;
        }
        self.get(offset)
    }

    /// Copies a part of the packet to another place than the stack; `false` where it ends before.
    #[inline(always)]
    pub fn load<T: Wire>(&self, offset: u32, to: &mut T) -> bool {
        let to = core::ptr::from_mut(to).cast();
        // SAFETY: `to` points to `size_of::<T>()` writable bytes, of which any pattern is a value;
        // the helper checks the range.
        unsafe {
            helpers::bpf_skb_load_bytes(self.skb.cast(), offset, to, size_of::<T>() as u32) == 0
        }
    }

    /// Writes a value into the packet; `false` where the kernel could not make it writable.
    #[inline(always)]
    pub fn store<T>(&self, offset: u32, value: &T) -> bool {
        let from = core::ptr::from_ref(value).cast();
        // SAFETY: `from` points to `size_of::<T>()` readable bytes; the helper checks the range.
        unsafe {
            helpers::bpf_skb_store_bytes(self.skb, offset, from, size_of::<T>() as u32, 0) == 0
        }
    }

    /// The hash of the flow, computed where it is missing.
    #[inline(always)]
    pub fn flow_hash(&self) -> u32 {
        // SAFETY: the helper takes any context.
        unsafe { helpers::bpf_get_hash_recalc(self.skb) }
    }

    /// Gives the packet a flow hash, whatever its sender claims.
    #[inline(always)]
    pub fn set_flow_hash(&self, hash: u32) {
        // SAFETY: the helper takes any context and any hash, and cannot fail.
        unsafe { helpers::bpf_set_hash(self.skb, hash) };
    }

    /// Makes room for the outer headers behind the Ethernet header. GSO packets stay whole. What
    /// a NIC has verified of the inner packet is forgotten, as the kernel's encapsulation does
    /// (`iptunnel_handle_offloads()`, `net/ipv4/ip_tunnel_core.c`, v6.12).
    /// On refusal (the packet is a tunnel's already, its GSO type is unknown to the helper, no
    /// memory) nothing has changed.
    #[inline(always)]
    pub fn add_outer_headers(&self) -> Result<(), Refused> {
        const FLAGS: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64
            | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64
            | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
            | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64
            | (ETHERNET_LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
        self.adjust_room(ENCAP_OVERHEAD as i32, FLAGS)
    }

    /// Takes the outer headers off, from behind the outer Ethernet header. The tunnel's GSO type
    /// stays on the skb: it may go straight into a pod, never back into the host's stack.
    #[inline(always)]
    pub fn remove_outer_headers(&self) -> Result<(), Refused> {
        const FLAGS: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64 | BPF_F_ADJ_ROOM_NO_CSUM_RESET as u64;
        self.adjust_room(-(ENCAP_OVERHEAD as i32), FLAGS)
    }

    #[inline(always)]
    fn adjust_room(&self, by: i32, flags: u64) -> Result<(), Refused> {
        let mode = bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
        // SAFETY: the helper takes any context; packet pointers are read anew after it.
        match unsafe { helpers::bpf_skb_adjust_room(self.skb, by, mode, flags) } {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }

    /// Whether the kernel takes the outermost checksum for right without a sum over the packet: the
    /// NIC or GRO have verified it (`CHECKSUM_UNNECESSARY`), or it is still to be filled in, so
    /// that the packet has been on no wire since (`CHECKSUM_PARTIAL`).
    ///
    /// No helper tells the other two states apart, but each changes one state alone: a level more
    /// makes "none" a verified one, and only to `CHECKSUM_COMPLETE` can be added. Nothing has
    /// changed afterwards.
    #[inline(always)]
    pub fn is_checksum_vouched_for(&self) -> bool {
        if self.csum_level(BPF_CSUM_LEVEL_QUERY) >= 0 {
            return true;
        }
        self.csum_level(BPF_CSUM_LEVEL_INC);
        if self.csum_level(BPF_CSUM_LEVEL_QUERY) >= 0 {
            self.csum_level(BPF_CSUM_LEVEL_DEC);
            return false;
        }
        // SAFETY: the helper takes any context and any sum.
        unsafe { helpers::bpf_csum_update(self.skb, 0) < 0 }
    }

    /// Takes back one level of "checksum verified", that of the outer UDP header, which is gone. The
    /// kernel's decap does so whether there was a checksum or zero for none, because both count
    /// as a level (`__skb_checksum_validate_needed()`, `include/linux/skbuff.h`, v6.12). Below the
    /// lowest level nothing is verified, and whoever receives the packet sums it up.
    #[inline(always)]
    pub fn consume_checksum_level(&self) {
        self.csum_level(BPF_CSUM_LEVEL_DEC);
    }

    #[inline(always)]
    fn csum_level(&self, what: u32) -> i64 {
        // SAFETY: the helper takes any context and any request.
        unsafe { helpers::bpf_csum_level(self.skb, u64::from(what)) }
    }

    /// Carries a changed address over into a TCP or UDP checksum, whatever its state: partial,
    /// complete, none, or UDP's zero.
    #[inline(always)]
    pub fn follow_address(&self, check_offset: u32, from: Be32, to: Be32, udp: bool) -> bool {
        let flags = BPF_F_PSEUDO_HDR as u64 | mangled_zero(udp) | size_of::<Be32>() as u64;
        self.replace_checksum(
            check_offset,
            from.to_network().into(),
            to.to_network().into(),
            flags,
        )
    }

    /// Carries a changed port over into a TCP or UDP checksum.
    #[inline(always)]
    pub fn follow_port(&self, check_offset: u32, from: Be16, to: Be16, udp: bool) -> bool {
        let flags = mangled_zero(udp) | size_of::<Be16>() as u64;
        self.replace_checksum(
            check_offset,
            from.to_network().into(),
            to.to_network().into(),
            flags,
        )
    }

    #[inline(always)]
    fn replace_checksum(&self, offset: u32, from: u64, to: u64, flags: u64) -> bool {
        // SAFETY: the helper takes any context and checks the offset.
        unsafe { helpers::bpf_l4_csum_replace(self.skb, offset, from, to, flags) == 0 }
    }

    /// Whether a packet that came in by this interface would be taken in by this host.
    #[inline(always)]
    pub fn is_taken_in(&self, source: Be32, destination: Be32) -> bool {
        is_taken_in(self.skb.cast(), self.ifindex(), source, destination)
    }

    /// Whether an interface is there, in the network namespace that this program runs in. The
    /// kernel looks it up before anything else (`bpf_ipv4_fib_lookup`, `net/core/filter.c`,
    /// v6.12; the same since 4.18).
    #[inline(always)]
    pub fn has_interface(&self, params: &mut FibParams, ifindex: u32) -> bool {
        *params = fib_params();
        params.family = AF_INET;
        params.ifindex = ifindex;
        let len = size_of::<FibParams>() as i32;
        // SAFETY: `params` is a whole `bpf_fib_lookup`.
        let answer =
            unsafe { helpers::bpf_fib_lookup(self.skb.cast(), params, len, BPF_FIB_LOOKUP_DIRECT) };
        answer != -ENODEV
    }

    /// Asks the kernel how UDP of this host to `destination` leaves, which no socket binds to an
    /// interface: as its vxlan device asks (`udp_tunnel_dst_lookup()`,
    /// `net/ipv4/udp_tunnel_core.c`, v6.12), of whose question the mark is missing.
    ///
    /// What this host sends comes in by `lo`, for its routing rules. With `BPF_FIB_LOOKUP_OUTPUT`
    /// the question would be bound to an interface, so that rules on `oif` would hold for it and
    /// the first gateway of several would always be taken.
    #[inline(always)]
    pub fn leaves_by(&self, source: Be32, destination: Be32, ports: (Be16, Be16)) -> Fib {
        let params = &mut fib_params();
        self.ask_fib(params, LOOPBACK_IFINDEX, source, destination, ports, 0)
    }

    /// The next hop of the main table's route to `destination`, whatever rules there are.
    #[inline(always)]
    pub fn main_route(&self, params: &mut FibParams, destination: Be32) -> Fib {
        let (nobody, no_ports) = (Be32::from_host(0), (Be16::from_host(0), Be16::from_host(0)));
        *params = fib_params();
        self.ask_fib(
            params,
            LOOPBACK_IFINDEX,
            nobody,
            destination,
            no_ports,
            BPF_FIB_LOOKUP_DIRECT,
        )
    }

    /// Asks the kernel where it forwards a packet to `destination` that came in by `ifindex`.
    #[inline(always)]
    pub fn forwards_to(
        &self,
        params: &mut FibParams,
        ifindex: u32,
        source: Be32,
        destination: Be32,
    ) -> Fib {
        let no_ports = (Be16::from_host(0), Be16::from_host(0));
        *params = fib_params();
        self.ask_fib(params, ifindex, source, destination, no_ports, 0)
    }

    /// `params` is all zero.
    #[inline(always)]
    fn ask_fib(
        &self,
        params: &mut FibParams,
        ifindex: u32,
        source: Be32,
        destination: Be32,
        ports: (Be16, Be16),
        flags: u32,
    ) -> Fib {
        params.family = AF_INET;
        params.l4_protocol = twill_packet::ipv4::IpProtocol::UDP.0;
        // Any length that fits: it makes the kernel answer with the route's MTU.
        params.__bindgen_anon_1.tot_len = 1;
        params.ifindex = ifindex;
        params.sport = ports.0.to_network();
        params.dport = ports.1.to_network();
        params.__bindgen_anon_3.ipv4_src = source.to_network();
        params.__bindgen_anon_4.ipv4_dst = destination.to_network();
        let len = size_of::<FibParams>() as i32;
        // SAFETY: `params` is a whole `bpf_fib_lookup`.
        let answer = unsafe { helpers::bpf_fib_lookup(self.skb.cast(), params, len, flags) };
        match answer {
            0 => Fib::Found(NextHop {
                ifindex: params.ifindex,
                source_mac: params.smac,
                mac: params.dmac,
                // SAFETY: the kernel wrote this member of the union.
                mtu: unsafe { params.__bindgen_anon_1.mtu_result }.into(),
            }),
            no_neighbour if no_neighbour == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) => {
                Fib::NoNeighbour
            }
            _ => Fib::Unusable,
        }
    }
}

impl Bytes for Bare<'_> {
    /// At least what there is behind the IP header's first byte.
    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn get<T: Wire>(&self, offset: u32) -> Option<T> {
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        let to = value.as_mut_ptr().cast();
        let size = size_of::<T>() as u32;
        // SAFETY: `to` points to `size_of::<T>()` writable bytes; the helper checks the range.
        let read = unsafe {
            helpers::bpf_skb_load_bytes_relative(
                self.0.skb.cast(),
                offset,
                to,
                size,
                BPF_HDR_START_NET,
            )
        };
        if read != 0 {
            return None;
        }
        // SAFETY: the helper has written every byte; any bit pattern is a value.
        Some(unsafe { value.assume_init() })
    }
}

impl Bytes for Packet {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    fn get<T: Wire>(&self, offset: u32) -> Option<T> {
        self.fetch(offset)
    }
}

impl<const SPLIT: bool> Frame<SPLIT> {
    /// The frame of an XDP program's context.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { md: ctx.ctx }
    }

    /// Interface index that the frame came in by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the verifier checks reads of the context against its layout.
        unsafe { (*self.md).ingress_ifindex }
    }

    /// Whether a packet that came in by this interface would be taken in by this host.
    #[inline(always)]
    pub fn is_taken_in(&self, source: Be32, destination: Be32) -> bool {
        is_taken_in(self.md.cast(), self.ifindex(), source, destination)
    }

    /// Where the frame's first piece begins and ends; see [`Packet::bounds`].
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let (data, end): (usize, usize);
        // SAFETY: two reads of the context, which the verifier checks against its layout.
        unsafe {
            asm!(
                "{data} = *(u32 *)({md} + {data_offset})",
                "{end} = *(u32 *)({md} + {end_offset})",
                md = in(reg) self.md,
                data = out(reg) data,
                end = lateout(reg) end,
                data_offset = const offset_of!(xdp_md, data),
                end_offset = const offset_of!(xdp_md, data_end),
                options(nostack, readonly),
            );
        }
        (data, end)
    }
}

impl<const SPLIT: bool> Bytes for Frame<SPLIT> {
    #[inline(always)]
    fn len(&self) -> u32 {
        if SPLIT {
            // SAFETY: the helper takes any context.
            return unsafe { helpers::bpf_xdp_get_buff_len(self.md) } as u32;
        }
        let (data, end) = self.bounds();
        (end - data) as u32
    }

    #[inline(always)]
    fn get<T: Wire>(&self, offset: u32) -> Option<T> {
        const { assert!(align_of::<T>() == 1, "packet memory has no alignment") };
        let (data, end) = self.bounds();
        let start = data + offset as usize;
        if start + size_of::<T>() <= end {
            // SAFETY: the range was checked against `data_end` just above; `T: Wire` has
            // alignment 1 and no invalid bit pattern.
            return Some(unsafe { *(start as *const T) });
        }
        if !SPLIT {
            return None;
        }
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        let to = value.as_mut_ptr().cast();
        // SAFETY: `to` points to `size_of::<T>()` writable bytes; the helper checks the range.
        let read =
            unsafe { helpers::bpf_xdp_load_bytes(self.md, offset, to, size_of::<T>() as u32) };
        if read != 0 {
            return None;
        }
        // SAFETY: the helper has written every byte; any bit pattern is a value.
        Some(unsafe { value.assume_init() })
    }
}

/// Whether the kernel takes in what came by an interface: by its routing the destination is this
/// host's, a broadcast or multicast address, or nowhere; or the interface forwards nothing.
#[inline(always)]
fn is_taken_in(
    context: *mut core::ffi::c_void,
    ifindex: u32,
    source: Be32,
    destination: Be32,
) -> bool {
    // SAFETY: the struct is plain integers; all zero is a value.
    let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    params.family = AF_INET;
    params.l4_protocol = twill_packet::ipv4::IpProtocol::UDP.0;
    params.ifindex = ifindex;
    params.__bindgen_anon_3.ipv4_src = source.to_network();
    params.__bindgen_anon_4.ipv4_dst = destination.to_network();
    let len = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: `params` is a whole `bpf_fib_lookup` on our stack.
    let answer = unsafe { helpers::bpf_fib_lookup(context, &raw mut params, len, 0) };
    answer == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED)
        || answer == i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
}

/// Sends the packet out of an interface.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: the helper takes any interface index.
    (unsafe { helpers::bpf_redirect(ifindex, 0) }) as i32
}

/// Hands the packet to the other end of a veth, inside the pod.
#[inline(always)]
pub fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: the helper takes any interface index.
    (unsafe { helpers::bpf_redirect_peer(ifindex, 0) }) as i32
}

/// The clock that every time in a map is read from: `CLOCK_MONOTONIC`, nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { helpers::bpf_ktime_get_ns() }
}

/// For UDP a checksum of zero means none, and a computed zero is sent as ones.
#[inline(always)]
const fn mangled_zero(udp: bool) -> u64 {
    if udp { BPF_F_MARK_MANGLED_0 as u64 } else { 0 }
}
