//! Why the packets of a pod must never be fast.
//!
//! A fast packet goes from the pod's veth to the uplink and back past everything in between:
//! past the qdiscs of the veth (`redirect_peer` enters the pod behind them) and of its bridge,
//! and past every filter and program that would run after ours.

use std::fmt;

use super::links::{Filter, Hook, HostLink, Qdisc};
use super::{Excluded, Rules};

/// Root qdiscs that a network card has without anybody's wanting a policy: the kernel's own
/// choices and those of `net.core.default_qdisc` in common distributions (`net/sched/sch_generic.c`,
/// v6.12). None of them goes by marks.
const DEFAULT_QDISCS: &[&str] = &["noqueue", "mq", "pfifo_fast", "fq_codel", "fq", "noop"];

/// What the kernel gives a virtual link.
const VIRTUAL_QDISCS: &[&str] = &["noqueue"];

/// A reason to keep a pod's packets on the slow path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NeverFast {
    /// A qdisc that is not ours: the limit on a pod's bandwidth, as a rule.
    ForeignQdisc {
        /// Name of the link that carries it: the veth, or its bridge.
        link: String,
        /// Kind of the qdisc.
        kind: String,
    },
    /// A filter that is not ours.
    ForeignFilter {
        /// Name of the link that carries it: the veth, or its bridge.
        link: String,
        /// The filter.
        filter: Filter,
    },
    /// A TCX program that is not ours.
    ForeignProgram {
        /// Name of the link that carries it: the veth, or its bridge.
        link: String,
        /// Name of the program.
        program: String,
    },
    /// An XDP program of the pod's own, at its end of the veth: a redirected packet comes in
    /// behind it.
    PodProgram {
        /// Name of the veth.
        link: String,
    },
    /// The operator's word.
    Excluded,
}

/// What a veth may be given as MTU, bytes, while no XDP program is at its other end; with one it
/// is what such a program can take (`veth_xdp_set()` in `drivers/net/veth.c`, v6.1 to v6.18).
const VETH_MAX_MTU: u32 = 65535;

impl NeverFast {
    /// The name in metrics and in `twillctl`.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::ForeignQdisc { .. } => "foreign_qdisc",
            Self::ForeignFilter { .. } => "foreign_filter",
            Self::ForeignProgram { .. } => "foreign_program",
            Self::PodProgram { .. } => "pod_program",
            Self::Excluded => "excluded",
        }
    }
}

impl fmt::Display for NeverFast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignQdisc { link, kind } => {
                write!(
                    f,
                    "{link} has the qdisc {kind}, which fast packets would skip"
                )
            }
            Self::ForeignFilter { link, filter } => {
                let Filter {
                    hook,
                    priority,
                    kind,
                    program,
                    handle: _,
                } = filter;
                let hook = hook.label();
                write!(f, "{link} has a {kind} filter")?;
                if let Some(program) = program {
                    write!(f, ", {program},")?;
                }
                write!(
                    f,
                    " at {hook}, priority {priority}, which fast packets would skip"
                )
            }
            Self::ForeignProgram { link, program } => {
                write!(
                    f,
                    "{link} has the TCX program {program}, which fast packets would skip"
                )
            }
            Self::PodProgram { link } => {
                write!(
                    f,
                    "the pod behind {link} has an XDP program, which fast packets would skip"
                )
            }
            Self::Excluded => f.write_str("excluded by the operator"),
        }
    }
}

/// What our own filters look like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OurFilters {
    /// Priority of both.
    pub priority: u16,
    /// Handle of both.
    pub handle: u32,
    /// Name of the program at TC ingress of a veth.
    pub ingress: String,
    /// Name of the program at TC egress of a veth.
    pub egress: String,
}

impl OurFilters {
    fn include(&self, filter: &Filter) -> bool {
        let ours = match filter.hook {
            Hook::Ingress => &self.ingress,
            Hook::Egress => &self.egress,
        };
        let named = match &filter.program {
            Some(program) => filter.handle == self.handle && program == ours,
            // What heads a priority: its filters are listed beside it.
            None => filter.handle == 0,
        };
        named && filter.kind == "bpf" && filter.priority == self.priority
    }
}

/// The first reason there is: the operator's word, then what the veth carries, then its bridge.
pub(super) fn judge(
    rules: &Rules,
    ifindex: u32,
    veth: &HostLink,
    bridge: Option<(u32, &HostLink)>,
) -> Option<NeverFast> {
    let excluded = rules.excluded.include(veth).then_some(NeverFast::Excluded);
    excluded
        .or_else(|| pod_program(veth))
        .or_else(|| foreign(rules, ifindex, veth, Some(&rules.our_filters)))
        // No program of ours belongs on a bridge.
        .or_else(|| bridge.and_then(|(ifindex, bridge)| foreign(rules, ifindex, bridge, None)))
}

fn pod_program(veth: &HostLink) -> Option<NeverFast> {
    let limited = veth.max_mtu.is_some_and(|max| max != VETH_MAX_MTU);
    limited.then(|| NeverFast::PodProgram {
        link: veth.name.clone(),
    })
}

impl Excluded {
    fn include(&self, veth: &HostLink) -> bool {
        let addressed = || {
            self.addresses.iter().any(|address| {
                let mut routes = veth.routes.iter();
                routes.any(|route| route.contains((*address).into()))
            })
        };
        self.links.contains(&veth.name) || addressed()
    }
}

/// Why no packet of this node may be fast, for what the uplink carries: fast packets come past
/// what would run after our program there, and leave without the marks and priorities that a
/// shaper goes by.
pub fn judge_uplink(
    uplink: &HostLink,
    ours: &OurFilters,
    foreign_program: Option<&str>,
) -> Option<NeverFast> {
    first_foreign(uplink, Some(ours), foreign_program, DEFAULT_QDISCS)
}

/// Why no packet of this node may skip the overlay's device, for what that carries: fast packets
/// never come there, and our program on it redirects before any qdisc.
pub fn judge_overlay(
    device: &HostLink,
    ours: &OurFilters,
    foreign_program: Option<&str>,
) -> Option<NeverFast> {
    first_foreign(device, Some(ours), foreign_program, VIRTUAL_QDISCS)
}

fn foreign(
    rules: &Rules,
    ifindex: u32,
    link: &HostLink,
    ours: Option<&OurFilters>,
) -> Option<NeverFast> {
    let program = rules.foreign_programs.get(&ifindex).map(String::as_str);
    first_foreign(link, ours, program, VIRTUAL_QDISCS)
}

/// The first of qdiscs, filters and programs that is not ours, where the root qdisc may be one
/// of these `usual` ones.
fn first_foreign(
    link: &HostLink,
    ours: Option<&OurFilters>,
    foreign_program: Option<&str>,
    usual: &[&str],
) -> Option<NeverFast> {
    let name = || link.name.clone();
    let qdisc = || {
        let mut qdiscs = link.qdiscs.iter();
        let kind = qdiscs
            .find_map(|qdisc| foreign_kind(qdisc, usual))?
            .to_owned();
        Some(NeverFast::ForeignQdisc { link: name(), kind })
    };
    let filter = || {
        let is_ours = |filter: &Filter| ours.is_some_and(|ours| ours.include(filter));
        let mut filters = link.filters.iter();
        let filter = filters.find(|filter| !is_ours(filter))?.clone();
        Some(NeverFast::ForeignFilter {
            link: name(),
            filter,
        })
    };
    let program = || {
        Some(NeverFast::ForeignProgram {
            link: name(),
            program: foreign_program?.to_owned(),
        })
    };
    qdisc().or_else(filter).or_else(program)
}

/// The kind of a qdisc that is there for a purpose. `clsact` does nothing but hold filters;
/// `ingress` is not what we would add.
fn foreign_kind<'a>(qdisc: &'a Qdisc, usual: &[&str]) -> Option<&'a str> {
    match qdisc {
        Qdisc::Root(kind) => (!usual.contains(&kind.as_str())).then_some(kind),
        Qdisc::Ingress(kind) => (kind != "clsact").then_some(kind),
    }
}
