//! Attaching by tc filters, where the kernel takes no TCX links.
//!
//! One filter at one priority and handle, so that attaching twice changes nothing. A
//! filter there that is not ours is left alone, and a clsact qdisc is never removed: it
//! may carry somebody else's filters by then.

use std::io;

use aya::programs::links::Link as _;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use futures_util::TryStreamExt as _;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpf, TcFilterBpfOption, TcMessage, TcOption};
use nix::errno::Errno;
use thiserror::Error;

use crate::place::Interface;

/// Where our filter stands among those of an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Priority, 1 to 65535: lower ones run first.
    pub priority: u16,
    /// Handle.
    pub handle: u32,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            priority: 50,
            handle: 1,
        }
    }
}

/// A filter that stands in a slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filter {
    /// Kind, `bpf` for one that could be ours.
    pub kind: String,
    /// Name of its program.
    pub name: Option<String>,
    /// Identity of its program.
    pub program_id: Option<u32>,
}

/// What went wrong with a filter.
#[derive(Debug, Error)]
pub enum FilterError {
    /// There is no netlink socket.
    #[error("open a netlink socket")]
    Socket(#[source] io::Error),
    /// The filters cannot be listed.
    #[error("list the tc filters of {interface}")]
    List {
        /// The interface.
        interface: String,
        /// Why not.
        #[source]
        source: rtnetlink::Error,
    },
    /// The interface has no clsact qdisc and takes none.
    #[error("add a clsact qdisc to {interface}")]
    Clsact {
        /// The interface.
        interface: String,
        /// Why not.
        #[source]
        source: TcError,
    },
    /// Somebody else's filter stands where ours belongs.
    #[error(
        "the tc filter at priority {} and handle {} of {interface} is {found}, not ours: \
         choose another --tc-priority",
        slot.priority, slot.handle
    )]
    Foreign {
        /// The interface.
        interface: String,
        /// Where.
        slot: Slot,
        /// What stands there.
        found: String,
    },
    /// The kernel refuses.
    #[error("attach a tc filter to {interface}")]
    Attach {
        /// The interface.
        interface: String,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// The kernel refuses.
    #[error("remove our tc filter from {interface}")]
    Detach {
        /// The interface.
        interface: String,
        /// Why not.
        #[source]
        source: ProgramError,
    },
}

/// The filter that fills `slot`, if there is one.
pub async fn find(
    interface: &Interface,
    direction: TcAttachType,
    slot: Slot,
) -> Result<Option<Filter>, FilterError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(FilterError::Socket)?;
    let connection = tokio::spawn(connection);
    let ifindex = i32::try_from(interface.ifindex).unwrap_or(i32::MAX);
    let request = handle.traffic_filter(ifindex).get();
    let request = match direction {
        TcAttachType::Ingress => request.ingress(),
        TcAttachType::Egress | TcAttachType::Custom(_) => request.egress(),
    };
    let answer = request.execute().try_collect::<Vec<_>>().await;
    connection.abort();
    let filters = answer.map_err(|source| FilterError::List {
        interface: interface.name.clone(),
        source,
    })?;
    let of_priority = || {
        let ours = |message: &&TcMessage| message.header.info >> 16 == u32::from(slot.priority);
        filters.iter().filter(ours)
    };
    let here = of_priority().find(|message| u32::from(message.header.handle) == slot.handle);
    // All filters of one priority are of one kind: one of another kind fills it.
    let other_kind = || {
        let mut others = of_priority().map(read);
        others.find(|filter| filter.kind != TcFilterBpf::KIND)
    };
    Ok(here.map(read).or_else(other_kind))
}

/// Attaches the program in `slot`, or puts it in the place of `existing`, which is ours.
pub fn attach(
    program: &mut SchedClassifier,
    interface: &Interface,
    direction: TcAttachType,
    slot: Slot,
    existing: Option<&Filter>,
) -> Result<(), FilterError> {
    let failed = |source| FilterError::Attach {
        interface: interface.name.clone(),
        source,
    };
    add_clsact(interface)?;
    let handle = TcHandle::from(slot.handle);
    let id = if existing.is_some() {
        let name = &interface.name;
        let link = SchedClassifierLink::attached(name, direction, slot.priority, handle, None)
            .map_err(|source| failed(TcError::IoError(source).into()))?;
        program.attach_to_link(link).map_err(failed)?
    } else {
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: slot.priority,
            handle,
            classid: None,
        });
        program
            .attach_with_options(&interface.name, direction, options)
            .map_err(failed)?
    };
    // Dropping the link would remove the filter.
    std::mem::forget(program.take_link(id).map_err(failed)?);
    Ok(())
}

/// Removes the filter in `slot`, which is ours.
pub fn detach(
    interface: &Interface,
    direction: TcAttachType,
    slot: Slot,
) -> Result<(), FilterError> {
    let failed = |source| FilterError::Detach {
        interface: interface.name.clone(),
        source,
    };
    let handle = TcHandle::from(slot.handle);
    SchedClassifierLink::attached(&interface.name, direction, slot.priority, handle, None)
        .map_err(|source| failed(TcError::IoError(source).into()))?
        .detach()
        .map_err(failed)
}

fn add_clsact(interface: &Interface) -> Result<(), FilterError> {
    match qdisc_add_clsact(&interface.name) {
        // There is one, or an ingress qdisc; if the latter, attaching will say so.
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {
            Ok(())
        }
        Err(source) => Err(FilterError::Clsact {
            interface: interface.name.clone(),
            source,
        }),
        Ok(()) => Ok(()),
    }
}

fn read(message: &TcMessage) -> Filter {
    let mut filter = Filter {
        kind: String::new(),
        name: None,
        program_id: None,
    };
    for attribute in &message.attributes {
        if let TcAttribute::Kind(kind) = attribute {
            filter.kind.clone_from(kind);
        }
        let TcAttribute::Options(options) = attribute else {
            continue;
        };
        for option in options {
            if let TcOption::Bpf(TcFilterBpfOption::ProgName(name)) = option {
                filter.name = Some(name.clone());
            }
            if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option {
                filter.program_id = Some(*id);
            }
        }
    }
    filter
}
