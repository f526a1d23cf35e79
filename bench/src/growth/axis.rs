//! What there is more and more of, and the nodes and the traffic that could feel it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::case::{Case, Shape, Subject, Target};
use crate::programs::MOST_LEASES;
use crate::topology::Setup;

/// How many there are of everything, from few to many.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Leases of other nodes.
    pub leases: Vec<u32>,
    /// Permits of other flows.
    pub permits: Vec<u32>,
    /// Services.
    pub services: Vec<u32>,
    /// Leases that an agent starts with.
    pub converging: Vec<u32>,
}

impl Sizes {
    /// All that the design promises.
    pub fn full() -> Self {
        Self {
            leases: vec![2, 1000, 10_000, MOST_LEASES],
            permits: vec![1, 10_000, 1_000_000],
            services: vec![10, 1000, 10_000],
            converging: vec![1000, 5000, 10_000, 50_000],
        }
    }

    /// Enough to see that each of them is measured.
    pub fn quick() -> Self {
        Self {
            leases: vec![2, 1000],
            permits: vec![1, 10_000],
            services: vec![10, 1000],
            converging: vec![1000],
        }
    }
}

/// What there is more of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Leases of other nodes.
    Leases,
    /// Permits of other flows.
    Permits,
    /// Services.
    Services,
}

impl fmt::Display for Axis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Leases => "leases",
            Self::Permits => "permits",
            Self::Services => "Services",
        })
    }
}

impl Axis {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Leases, Self::Permits, Self::Services];
    /// Services where they are not what there is more of.
    const FEW_SERVICES: u32 = 50;

    pub(super) fn sizes(self, sizes: &Sizes) -> &[u32] {
        match self {
            Self::Leases => &sizes.leases,
            Self::Permits => &sizes.permits,
            Self::Services => &sizes.services,
        }
    }

    /// Kinds of traffic that could feel it.
    pub(super) const fn cases(self) -> &'static [Case] {
        match self {
            Self::Leases => &[Case::Udp64, Case::TcpRr],
            Self::Permits => &[Case::UdpRr, Case::TcpRr],
            Self::Services => &[Case::TcpCrr, Case::TcpRr],
        }
    }

    /// Who could feel it. The kernel has no permits.
    pub(super) const fn subjects(self) -> &'static [Subject] {
        match self {
            Self::Leases | Self::Services => &[Subject::Kernel, Subject::Permit],
            Self::Permits => &[Subject::Permit],
        }
    }

    pub(super) const fn target(self) -> Target {
        match self {
            Self::Leases | Self::Permits => Target::Pod,
            Self::Services => Target::Service,
        }
    }

    pub(super) const fn setup(self, size: u32) -> Setup {
        let few = Setup {
            shape: Shape::Gso,
            services: Self::FEW_SERVICES,
            leases: 0,
            permits: 0,
            max_permits: None,
        };
        match self {
            Self::Leases => Setup {
                leases: size,
                ..few
            },
            Self::Permits => Setup {
                permits: size,
                ..few
            },
            Self::Services => Setup {
                services: size,
                ..few
            },
        }
    }
}
