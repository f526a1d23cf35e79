//! Entries of the map `vteps`: what they say, and how they change under readers.
//!
//! The kernel copies a value into an array while programs on other CPUs read it. So an entry that
//! is in use changes in single fields only, each of which may be seen old or new; everything else
//! changes while `flags` say that nobody may use it.

use std::net::{IpAddr, Ipv4Addr};

use twill_abi::{Address, VTEP_FLAG_ACTIVE, Vtep};
use twill_core::subnet::Subnet;
use twill_core::vtep::{MacAddr, RemoteVtep};

use super::maps::{V4_OFFSET, subnet};

/// A VTEP that is nowhere.
const NOBODY: RemoteVtep = RemoteVtep {
    underlay: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    mac: MacAddr([0; 6]),
};

/// The values to write one after the other, so that the entry says where `remote` is, with a
/// subnet behind it.
pub(super) fn set(before: &Vtep, remote: RemoteVtep, behind: Subnet, vni: u32) -> Vec<Vtep> {
    let RemoteVtep { underlay, mac } = remote;
    let mut values = Vec::new();
    if before.flags != 0 {
        values.push(clear(before));
    }
    let last = values.last().unwrap_or(before);
    let unused = Vtep {
        underlay: Address::from(underlay),
        subnet: Address::from(behind.network()),
        mac: mac.0,
        subnet_prefix: mapped_prefix(behind),
        reserved: 0,
        vni,
        flags: 0,
        generation: last.generation.wrapping_add(1),
        path_mtu: 0,
        subnet_mtu: 0,
        reserved_tail: 0,
    };
    values.push(unused);
    values.push(Vtep {
        flags: VTEP_FLAG_ACTIVE,
        ..unused
    });
    values
}

/// The value of an entry that nobody may use any more. Who it was stays to be read by whoever is
/// just reading it.
pub(super) fn clear(before: &Vtep) -> Vtep {
    Vtep {
        flags: 0,
        generation: before.generation.wrapping_add(1),
        ..*before
    }
}

/// The value with another path MTU, bytes; the VTEP is the same.
pub(super) fn with_path_mtu(before: &Vtep, bytes: Option<u32>) -> Vtep {
    Vtep {
        path_mtu: bytes.unwrap_or(0),
        ..*before
    }
}

/// The value with another MTU of its subnets, bytes; the VTEP is the same.
pub(super) fn with_subnet_mtu(before: &Vtep, bytes: Option<u32>) -> Vtep {
    Vtep {
        subnet_mtu: bytes.unwrap_or(0),
        ..*before
    }
}

/// Where the VTEP is, if the entry is in use; nowhere, if it says so otherwise than this agent
/// would, so that the plan writes it again.
pub(super) fn remote(entry: &Vtep, vni: u32) -> Option<RemoteVtep> {
    if entry.flags == 0 {
        return None;
    }
    let as_we_write = entry.flags == VTEP_FLAG_ACTIVE
        && entry.vni == vni
        && entry.reserved == 0
        && subnet(entry.subnet, entry.subnet_prefix).is_some();
    if !as_we_write {
        return Some(NOBODY);
    }
    Some(RemoteVtep {
        underlay: IpAddr::from(entry.underlay),
        mac: MacAddr(entry.mac),
    })
}

/// The prefix length of a subnet in the map's form.
pub(super) fn mapped_prefix(subnet: Subnet) -> u8 {
    match subnet.network() {
        IpAddr::V4(_) => subnet.prefix().saturating_add(V4_OFFSET),
        IpAddr::V6(_) => subnet.prefix(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(generation: u32) -> Vtep {
        Vtep {
            underlay: Address::default(),
            subnet: Address::default(),
            mac: [0; 6],
            subnet_prefix: 0,
            reserved: 0,
            vni: 0,
            flags: 0,
            generation,
            path_mtu: 0,
            subnet_mtu: 0,
            reserved_tail: 0,
        }
    }

    fn who(number: u8) -> RemoteVtep {
        RemoteVtep {
            underlay: [192, 0, 2, number].into(),
            mac: MacAddr([2, 0, 0, 0, 0, number]),
        }
    }

    fn behind(number: u8) -> Subnet {
        format!("10.244.{number}.0/24").parse().unwrap()
    }

    fn entry(number: u8, generation: u32) -> Vtep {
        *set(&empty(generation - 1), who(number), behind(number), 1)
            .last()
            .unwrap()
    }

    /// What a reader may see while `after` takes the place of `before`: some fields old, some new.
    fn mixtures(before: &Vtep, after: &Vtep) -> Vec<Vtep> {
        let pick = |bits: u32, bit: u32| if bits & 1 << bit == 0 { before } else { after };
        (0..1 << 7)
            .map(|bits| Vtep {
                underlay: pick(bits, 0).underlay,
                subnet: pick(bits, 1).subnet,
                mac: pick(bits, 2).mac,
                subnet_prefix: pick(bits, 1).subnet_prefix,
                reserved: 0,
                vni: pick(bits, 3).vni,
                flags: pick(bits, 4).flags,
                generation: pick(bits, 5).generation,
                path_mtu: pick(bits, 6).path_mtu,
                subnet_mtu: pick(bits, 6).subnet_mtu,
                reserved_tail: 0,
            })
            .collect()
    }

    #[test]
    fn no_reader_ever_sees_half_of_two_vteps() {
        let old = entry(2, 7);
        let narrow = with_path_mtu(&old, Some(1400));
        let narrower = with_subnet_mtu(&narrow, Some(1300));
        let mut freed = vec![old, narrow, narrower, clear(&old)];
        freed.extend(set(&clear(&old), who(3), behind(3), 1));
        // In the place of one that is in use, which no plan wants.
        let mut replaced = vec![entry(4, 20)];
        replaced.extend(set(&entry(4, 20), who(3), behind(3), 1));
        for values in [freed, replaced] {
            for (before, after) in values.iter().zip(values.iter().skip(1)) {
                let whole = [before, after].map(|entry| remote(entry, 1));
                for seen in mixtures(before, after) {
                    let who = remote(&seen, 1);
                    assert!(
                        who.is_none() || whole.contains(&who),
                        "{seen:?} of {before:?} and {after:?}"
                    );
                }
            }
            let (first, last) = (values[0], values[values.len() - 1]);
            assert_eq!(remote(&last, 1), Some(who(3)));
            assert_eq!(
                last.generation,
                first.generation + 2,
                "old permits are void"
            );
        }
    }

    #[test]
    fn an_entry_as_we_write_it_is_read_back() {
        assert_eq!(remote(&entry(2, 3), 1), Some(who(2)));
        assert_eq!(remote(&clear(&entry(2, 3)), 1), None);
        assert_eq!(remote(&empty(9), 1), None);
    }

    #[test]
    fn any_other_entry_is_written_again() {
        let entry = entry(2, 3);
        let others = [
            Vtep { vni: 2, ..entry },
            Vtep { flags: 3, ..entry },
            Vtep { flags: 2, ..entry },
            Vtep {
                reserved: 1,
                ..entry
            },
            Vtep {
                subnet_prefix: 95,
                ..entry
            },
            Vtep {
                subnet_prefix: 129,
                ..entry
            },
            Vtep {
                subnet: Address::from(Ipv4Addr::new(10, 244, 2, 1)),
                ..entry
            },
        ];
        for other in others {
            assert_eq!(remote(&other, 1), Some(NOBODY), "{other:?}");
        }
    }
}
