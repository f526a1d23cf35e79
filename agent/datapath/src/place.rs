//! Which program belongs where, and what a place is called.

use aya::programs::TcAttachType;
use nix::net::if_::if_indextoname;
use twill_abi::Program;

/// Which interface a program belongs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The kernel's vxlan device.
    Overlay,
    /// The underlay interface.
    Uplink,
    /// The host-side veth of every pod.
    Pod,
}

/// A program and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The program; its label is its name in the object.
    pub program: Program,
    /// The interface.
    pub place: Place,
    /// Which way packets go.
    pub direction: TcAttachType,
    /// Before or after the programs of others.
    pub turn: Turn,
}

/// When a program runs, of those on one hook.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// Before all others: nobody else's verdict hides packets from it.
    First,
    /// After all others: it sees only what they let pass.
    Last,
}

/// Every program that is attached by traffic control.
pub const HOOKS: &[Hook] = &[
    Hook {
        program: Program::ToOverlay,
        place: Place::Overlay,
        direction: TcAttachType::Egress,
        turn: Turn::First,
    },
    Hook {
        program: Program::FromUplink,
        place: Place::Uplink,
        direction: TcAttachType::Ingress,
        turn: Turn::First,
    },
    Hook {
        program: Program::ToUplink,
        place: Place::Uplink,
        direction: TcAttachType::Egress,
        // What another program drops must not count as having left.
        turn: Turn::Last,
    },
    Hook {
        program: Program::FromPod,
        place: Place::Pod,
        direction: TcAttachType::Ingress,
        turn: Turn::First,
    },
    Hook {
        program: Program::ToPod,
        place: Place::Pod,
        direction: TcAttachType::Egress,
        turn: Turn::First,
    },
];

/// An interface, by name and index as they were when somebody looked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
}

impl Interface {
    /// The interface of this index in the network namespace that we are in, if there is one.
    pub fn at(ifindex: u32) -> Option<Self> {
        let name = if_indextoname(ifindex).ok()?.into_string().ok()?;
        // Where there is none, nix 0.31 gives an empty name, for it takes no null for an error.
        (!name.is_empty()).then_some(Self { name, ifindex })
    }
}

/// The interfaces of each [`Place`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interfaces {
    /// The kernel's vxlan device.
    pub overlay: Interface,
    /// The underlay interface.
    pub uplink: Interface,
    /// The host-side veths of pods that may be fast.
    pub pods: Vec<Interface>,
    /// The host-side veths of other pods, which only may not speak to the nodes' VXLAN port.
    pub watched: Vec<Interface>,
    /// The uplink's kind, as `veth`, or its driver.
    pub uplink_kind: String,
    /// Whether its packets have no Ethernet header.
    pub bare_uplink: bool,
}

impl Interfaces {
    pub(super) fn at(&self, place: Place) -> &[Interface] {
        match place {
            Place::Overlay => std::slice::from_ref(&self.overlay),
            Place::Uplink => std::slice::from_ref(&self.uplink),
            Place::Pod => &self.pods,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_without_an_interface_is_none_s() {
        assert_eq!(Interface::at(1).unwrap().name, "lo");
        assert_eq!(Interface::at(i32::MAX.unsigned_abs()), None);
    }
}
