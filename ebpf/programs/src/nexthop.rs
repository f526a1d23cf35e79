//! The way to a VTEP: next hop, path MTU and outer permit, remembered in `vtep_state`.
//!
//! Nothing here waits for the agent: the kernel's routing is asked again by the packets
//! themselves, at most a thousand times a second for each VTEP, so a gateway that changes its MAC
//! address is followed with the agent dead.

use twill_abi::{
    Address, Be16, CONFIG_FLAG_BARE_UPLINK, CONFIG_FLAG_ROUTED_BY_PORT, Config, HEARD_TICKS,
    Reason, Vtep, VtepState,
};
use twill_packet::ethernet::ETHERNET_LEN;
use twill_packet::vxlan::{ENCAP_OVERHEAD, source_port};

use crate::access::{Fib, Packet};
use crate::maps;

/// How long a next hop is used before the kernel is asked again.
///
/// What is sent to a next hop that has changed is lost, and only for so long. Asking costs some
/// 315 ns, 110 of them for the overlay's MTU (`bench --programs`): by the millisecond it is a third
/// of a thousandth of one processor for each VTEP in use, and less than any word of the agent's
/// would take to get here.
const NEXTHOP_NS: u64 = 1_000_000;

/// How many outer permit times a VTEP is slow for after the kernel's packet went another way.
const DISPUTE_PERMITS: u64 = 4;

/// Largest total length of an IPv4 packet, bytes.
const IPV4_MAX: u32 = 65_535;

/// The way to a VTEP, copied out of the shared state.
#[derive(Clone, Copy)]
pub struct Path {
    /// Interface index.
    pub ifindex: u32,
    /// MAC address of the interface.
    pub source_mac: [u8; 6],
    /// MAC address of the next hop.
    pub mac: [u8; 6],
    /// Largest outer IP packet, bytes, that the path takes and the overlay's device would make.
    pub mtu: u32,
}

/// Forgets what belongs to an earlier owner of the index.
#[inline(always)]
pub fn refresh_generation(state: &mut VtepState, vtep: &Vtep) {
    if state.generation != vtep.generation {
        state.outer_permit_until_ns = 0;
        state.nexthop_until_ns = 0;
        state.disputed_until_ns = 0;
        state.heard_at = 0;
        state.generation = vtep.generation;
    }
}

/// The way to a VTEP, from memory or from the kernel.
#[inline(always)]
pub fn resolve(
    packet: &Packet,
    config: &Config,
    (index, vtep): (u32, &Vtep),
    state: &mut VtepState,
    now: u64,
) -> Result<Path, Reason> {
    if config.flags & CONFIG_FLAG_BARE_UPLINK != 0 {
        return Err(Reason::NextHopUnusable);
    }
    let generation = vtep.generation;
    refresh_generation(state, vtep);
    // Of another uplink nothing is remembered: it may be gone, and what is sent there lost.
    if now < state.nexthop_until_ns && state.ifindex == config.uplink_ifindex {
        return Ok(Path {
            ifindex: state.ifindex,
            source_mac: unpack_mac(state.source_mac),
            mac: unpack_mac(state.nexthop_mac),
            mtu: least(state.path_mtu, vtep.path_mtu),
        });
    }
    let (source, destination) = (config.underlay.last_word(), vtep.underlay.last_word());
    // A rule that tells source ports apart is not asked with one of them (`outer_permit`).
    let ports = (Be16::from_host(config.source_port_min), config.vxlan_port);
    match packet.leaves_by(source, destination, ports) {
        Fib::Found(next) if next.ifindex == config.uplink_ifindex => {
            let mtu = least(next.mtu, overlay_mtu(packet, config, vtep));
            state.ifindex = next.ifindex;
            state.source_mac = pack_mac(next.source_mac);
            state.nexthop_mac = pack_mac(next.mac);
            state.path_mtu = mtu;
            // Last, so that another CPU never takes the rest for fresh before it is.
            state.nexthop_until_ns = now + NEXTHOP_NS;
            // The index was given to another VTEP meanwhile: what was just remembered is the old
            // one's, and another CPU may have begun to remember the new one's.
            if maps::vtep(index).is_none_or(|vtep| vtep.generation != generation) {
                state.nexthop_until_ns = 0;
            }
            Ok(Path {
                ifindex: next.ifindex,
                source_mac: next.source_mac,
                mac: next.mac,
                mtu: least(mtu, vtep.path_mtu),
            })
        }
        Fib::Found(_) => Err(Reason::NextHopElsewhere),
        Fib::NoNeighbour => Err(Reason::NextHopUnresolved),
        Fib::Unusable => Err(Reason::NextHopUnusable),
    }
}

/// Largest outer packet that may carry what the stack would forward to this VTEP by the overlay's
/// device, as far as that device and the routes to the VTEP's subnets limit it; 0: nothing does.
#[inline(always)]
fn overlay_mtu(packet: &Packet, config: &Config, vtep: &Vtep) -> u32 {
    // Not on the stack, of which kernels before 6.6 leave little to a program of this size.
    let Some(params) = maps::scratch_fib() else {
        return vtep.subnet_mtu;
    };
    match packet.main_route(params, vtep.subnet.last_word()) {
        Fib::Found(next) if next.ifindex == config.overlay_ifindex => {
            least(next.mtu + ENCAP_OVERHEAD, vtep.subnet_mtu)
        }
        // The stack would not forward there, or by rules that the agent has to know.
        Fib::Found(_) | Fib::NoNeighbour | Fib::Unusable => vtep.subnet_mtu,
    }
}

/// Whether the stack would forward the packet by the overlay's device as it is: longer ones it
/// answers or fragments, before any encapsulation.
#[inline(always)]
pub fn fits_overlay(packet: &Packet, headers_len: u32, config: &Config, vtep: &Vtep) -> bool {
    let limit = overlay_mtu(packet, config, vtep);
    limit == 0 || ip_len(packet, headers_len) + ENCAP_OVERHEAD <= limit
}

/// The smaller limit; `said` is none where it is 0.
#[inline(always)]
fn least(found: u32, said: u32) -> u32 {
    if said != 0 && said < found {
        said
    } else {
        found
    }
}

/// Whether the outer packet's way was confirmed by the kernel's own packets lately.
///
/// Now and then one packet is refused on purpose: it goes the kernel's way, past OUTPUT rules,
/// xfrm policies and netdev egress rules, and asks again. Which one, [`ask_outer`] says at the
/// last program before the kernel's device: refused once, it must be refused there too.
#[inline(always)]
pub fn outer_permit(config: &Config, state: &VtepState, now: u64) -> Result<(), Reason> {
    if config.flags & CONFIG_FLAG_ROUTED_BY_PORT != 0 {
        return Err(Reason::RoutedByRule);
    }
    if now < state.disputed_until_ns {
        return Err(Reason::NextHopDisputed);
    }
    if config.outer_permit_ns == 0 {
        return Ok(());
    }
    if now >= state.outer_permit_until_ns {
        return Err(Reason::OuterPermitExpired);
    }
    if now >= state.outer_probe_at_ns {
        return Err(Reason::OuterProbe);
    }
    Ok(())
}

/// [`outer_permit`] for a packet that the kernel's device gets next, if it is refused.
///
/// The packet that asks leaves its flow's hash, and so its outer source port, for one that all
/// questions to this VTEP have in common: conntrack then has one entry for them, that each of
/// them keeps alive, and none of them is lost when its table is full. With its own port a packet
/// would need a new entry, since BPF leaves none of its flow's outer packets behind.
#[inline(always)]
pub fn ask_outer(
    packet: &Packet,
    config: &Config,
    vtep: &Vtep,
    state: &mut VtepState,
    now: u64,
) -> Result<(), Reason> {
    let permitted = outer_permit(config, state, now);
    if permitted.is_err() && now >= state.outer_probe_at_ns {
        state.outer_probe_at_ns = now + config.outer_permit_ns / 8;
        packet.set_flow_hash(asking_hash(vtep.underlay));
    }
    permitted
}

/// The hash that all packets have which ask for the outer permit of the VTEP at this address.
#[inline(always)]
fn asking_hash(underlay: Address) -> u32 {
    underlay.last_word().to_host()
}

/// Whether a packet that came from a VTEP asks for the outer permit that its node has of us, by
/// the port that [`ask_outer`] gave it; nodes with other ranges of ports are not understood.
#[inline(always)]
pub fn asks(config: &Config, source_port: u16) -> bool {
    port_of(config, asking_hash(config.underlay)) == source_port
}

/// The outer source port of a flow with this hash, host order.
#[inline(always)]
pub fn port_of(config: &Config, hash: u32) -> u16 {
    source_port(hash, config.source_port_min, config.source_port_max)
}

/// Whether the kernel's own VXLAN to a VTEP was seen to leave lately. Where xfrm policies transform
/// what goes there it never is, and then what comes from there has policies to pass as well, which
/// only the stack asks.
#[inline(always)]
pub fn is_confirmed(config: &Config, vtep: &Vtep, state: &mut VtepState, now: u64) -> bool {
    refresh_generation(state, vtep);
    config.outer_permit_ns == 0 || now < state.outer_permit_until_ns
}

/// VXLAN has come from this VTEP, as it should, by the uplink's hook: one write in eight ticks.
#[inline(always)]
pub fn hear(vtep: &Vtep, state: &mut VtepState, now: u64) {
    refresh_generation(state, vtep);
    let tick = VtepState::tick(now);
    if state.heard_at == 0 || tick.wrapping_sub(state.heard_at) >= HEARD_TICKS / 8 {
        state.heard_at = tick;
    }
}

/// Whether VXLAN came from this VTEP lately by the uplink's hook. What comes from it by another
/// interface, or from another address than its own, is the stack's, and so must be all of its
/// flow: conntrack takes an answer for invalid whose question it has not seen.
#[inline(always)]
pub fn is_heard(vtep: &Vtep, state: &VtepState, now: u64) -> bool {
    state.generation == vtep.generation && state.is_heard(now)
}

/// The kernel has sent VXLAN to this VTEP, to the next hop with this MAC address. Whether that is
/// the one that BPF would have taken; if not, BPF takes none for a while.
///
/// So what the kernel goes by and BPF cannot ask for, as a mark that a rule in OUTPUT sets, a
/// redirect, or a hash over several gateways, makes a VTEP slow with the agent dead as well.
/// While it is, all its packets are the kernel's, and each that goes the other way keeps it so.
#[inline(always)]
pub fn confirm_outer(
    packet: &Packet,
    config: &Config,
    (index, vtep): (u32, &Vtep),
    state: &mut VtepState,
    mac: [u8; 6],
    now: u64,
) -> Result<(), Reason> {
    refresh_generation(state, vtep);
    state.outer_probe_at_ns = now + config.outer_permit_ns / 2;
    state.outer_permit_until_ns = now + config.outer_permit_ns;
    let remembered = state.ifindex == config.uplink_ifindex && state.nexthop_mac == pack_mac(mac);
    if !remembered {
        // What is remembered may be older than what the kernel has just found.
        state.nexthop_until_ns = 0;
    }
    match resolve(packet, config, (index, vtep), state, now) {
        Ok(path) if path.mac == mac => Ok(()),
        _ => {
            state.disputed_until_ns = now + config.outer_permit_ns * DISPUTE_PERMITS;
            Err(Reason::NextHopDisputed)
        }
    }
}

/// Whether the packet fits the path once it is encapsulated; `headers_len` are the IP and
/// transport headers that each segment of a GSO packet repeats.
#[inline(always)]
pub fn fits(packet: &Packet, headers_len: u32, path: &Path) -> bool {
    packet.len() + (ENCAP_OVERHEAD - ETHERNET_LEN) <= IPV4_MAX
        && ip_len(packet, headers_len) + ENCAP_OVERHEAD <= path.mtu
}

/// Length of the IP packet in a frame, or of its segments, bytes.
#[inline(always)]
fn ip_len(packet: &Packet, headers_len: u32) -> u32 {
    match packet.gso_size() {
        0 => packet.len() - ETHERNET_LEN,
        gso_size => gso_size + headers_len,
    }
}

#[inline(always)]
fn pack_mac(mac: [u8; 6]) -> u64 {
    let mut word = [0; 8];
    word[..6].copy_from_slice(&mac);
    u64::from_ne_bytes(word)
}

#[inline(always)]
fn unpack_mac(word: u64) -> [u8; 6] {
    let [mac @ .., _, _] = word.to_ne_bytes();
    mac
}
