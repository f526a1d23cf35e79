//! What is measured: cases, shapes of the wire, targets, subjects, and their names.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Gives a closed set its names: `ALL`, `name`, and `Display`; clap and serde use the same.
macro_rules! names {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            /// All of them, in the order of reports.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in documents and on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.name())
            }
        }
    };
}

/// A kind of traffic.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Case {
    /// One TCP stream.
    TcpStream,
    /// Eight TCP streams.
    #[serde(rename = "tcp_stream_8")]
    #[value(name = "tcp_stream_8")]
    TcpStream8,
    /// 32 TCP streams.
    #[serde(rename = "tcp_stream_32")]
    #[value(name = "tcp_stream_32")]
    TcpStream32,
    /// One byte there and back, over one TCP connection.
    TcpRr,
    /// The same over 32 connections at once.
    #[serde(rename = "tcp_rr_32")]
    #[value(name = "tcp_rr_32")]
    TcpRr32,
    /// A datagram there and back, one flow.
    UdpRr,
    /// The same, 32 flows at once.
    #[serde(rename = "udp_rr_32")]
    #[value(name = "udp_rr_32")]
    UdpRr32,
    /// The same, 640 flows at once.
    #[serde(rename = "udp_rr_640")]
    #[value(name = "udp_rr_640")]
    UdpRr640,
    /// Connect, a byte there and back, close.
    TcpCrr,
    /// Datagrams of 64 bytes one way, as many as go.
    #[serde(rename = "udp_64")]
    #[value(name = "udp_64")]
    Udp64,
    /// Datagrams of 1400 bytes one way.
    #[serde(rename = "udp_1400")]
    #[value(name = "udp_1400")]
    Udp1400,
    /// `udp_rr` while a TCP stream takes the same way: its percentiles count.
    Latency,
}

names!(Case {
    TcpStream = "tcp_stream",
    TcpStream8 = "tcp_stream_8",
    TcpStream32 = "tcp_stream_32",
    TcpRr = "tcp_rr",
    TcpRr32 = "tcp_rr_32",
    UdpRr = "udp_rr",
    UdpRr32 = "udp_rr_32",
    UdpRr640 = "udp_rr_640",
    TcpCrr = "tcp_crr",
    Udp64 = "udp_64",
    Udp1400 = "udp_1400",
    Latency = "latency",
});

impl Case {
    /// What `--quick` measures.
    pub const QUICK: &'static [Self] = &[
        Self::TcpStream,
        Self::TcpRr,
        Self::UdpRr,
        Self::UdpRr32,
        Self::TcpCrr,
        Self::Udp64,
    ];

    /// What a full run measures: all but what is about `--max-permits` alone.
    pub fn full() -> Vec<Self> {
        let mut cases = Self::ALL.to_vec();
        cases.retain(|case| *case != Self::UdpRr640);
        cases
    }

    /// The traffic behind the name.
    pub const fn traffic(self) -> Traffic {
        match self {
            Self::TcpStream => Traffic::Stream { flows: 1 },
            Self::TcpStream8 => Traffic::Stream { flows: 8 },
            Self::TcpStream32 => Traffic::Stream { flows: 32 },
            Self::TcpRr => Traffic::TcpTransactions { flows: 1 },
            Self::TcpRr32 => Traffic::TcpTransactions { flows: 32 },
            Self::UdpRr => Traffic::UdpTransactions { flows: 1 },
            Self::UdpRr32 => Traffic::UdpTransactions { flows: 32 },
            Self::UdpRr640 => Traffic::UdpTransactions { flows: 640 },
            Self::TcpCrr => Traffic::Connections,
            Self::Udp64 => Traffic::Datagrams { bytes: 64 },
            Self::Udp1400 => Traffic::Datagrams { bytes: 1400 },
            Self::Latency => Traffic::LoadedTransactions,
        }
    }

    /// What its figure counts.
    pub const fn unit(self) -> Unit {
        match self.traffic() {
            Traffic::Stream { .. } => Unit::Bits,
            Traffic::Datagrams { .. } => Unit::Packets,
            Traffic::Connections => Unit::Connections,
            Traffic::TcpTransactions { .. }
            | Traffic::UdpTransactions { .. }
            | Traffic::LoadedTransactions => Unit::Transactions,
        }
    }
}

/// Traffic that the load generator makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Traffic {
    /// TCP streams, all in one direction.
    Stream {
        /// How many at once.
        flows: usize,
    },
    /// Requests and answers over TCP connections that stay.
    TcpTransactions {
        /// How many connections.
        flows: usize,
    },
    /// Requests and answers over UDP.
    UdpTransactions {
        /// How many flows.
        flows: usize,
    },
    /// A TCP connection for each request.
    Connections,
    /// Datagrams one way.
    Datagrams {
        /// Bytes of payload in each.
        bytes: usize,
    },
    /// Requests and answers over UDP beside a TCP stream.
    LoadedTransactions,
}

/// What a figure counts, each second.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bits of TCP payload that arrived.
    Bits,
    /// Requests that were answered.
    Transactions,
    /// Connections that were opened, used and closed.
    Connections,
    /// Datagrams that arrived.
    Packets,
}

names!(Unit {
    Bits = "bit/s",
    Transactions = "transactions/s",
    Connections = "connections/s",
    Packets = "packets/s",
});

/// What crosses the wire between the nodes.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Packets of up to 64 KiB cross whole, as between virtual machines.
    Gso,
    /// Frames of the MTU's size cross and GRO puts them together again, as with a NIC.
    Nic,
}

names!(Shape {
    Gso = "gso",
    Nic = "nic",
});

/// What the client talks to.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The pod's own address (for the subject `host`: the node's).
    Pod,
    /// A Service's address, which kube-proxy's rules turn into the pod's.
    Service,
}

names!(Target {
    Pod = "pod",
    Service = "service",
});

/// A way from one node to the other.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The nodes' own network, no overlay: the limit.
    Host,
    /// The kernel's vxlan device, set up as flannel does (by flanneld itself, if given).
    Kernel,
    /// Twill with `--fast-path=off`.
    Off,
    /// Twill with `--fast-path=permit`.
    Permit,
    /// Twill with `--fast-path=direct`.
    Direct,
    /// `kernel` once more, in nodes of its own: what it differs from `kernel` is noise.
    Again,
    /// `kernel` with a program on the way that takes its time: must come out slower.
    Slowed,
}

names!(Subject {
    Host = "host",
    Kernel = "kernel",
    Off = "off",
    Permit = "permit",
    Direct = "direct",
    Again = "again",
    Slowed = "slowed",
});

impl Subject {
    /// What a run compares unless it is told otherwise.
    pub const USUAL: &'static [Self] = &[
        Self::Host,
        Self::Kernel,
        Self::Off,
        Self::Permit,
        Self::Direct,
    ];
    /// What others are held against.
    pub const REFERENCES: &'static [Self] = &[Self::Host, Self::Kernel];

    /// Whether it has pods and Services; the nodes' own network has not.
    pub const fn is_overlay(self) -> bool {
        !matches!(self, Self::Host)
    }

    /// The value of `--fast-path`, where this is Twill.
    pub const fn fast_path(self) -> Option<&'static str> {
        match self {
            Self::Off => Some("off"),
            Self::Permit => Some("permit"),
            Self::Direct => Some("direct"),
            Self::Host | Self::Kernel | Self::Again | Self::Slowed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same name in documents, on the command line and in JSON.
    fn check<T: ValueEnum + Serialize + fmt::Display>(all: &[T]) {
        assert_eq!(all.len(), T::value_variants().len());
        for one in all {
            let name = one.to_string();
            assert_eq!(serde_json::to_value(one).unwrap(), name.as_str());
            assert_eq!(one.to_possible_value().unwrap().get_name(), name);
        }
    }

    #[test]
    fn a_thing_has_one_name() {
        check(Case::ALL);
        check(Shape::ALL);
        check(Target::ALL);
        check(Subject::ALL);
    }

    #[test]
    fn scripts_find_the_names_that_they_know() {
        let names: Vec<_> = Case::QUICK.iter().map(|case| case.name()).collect();
        assert_eq!(
            names,
            [
                "tcp_stream",
                "tcp_rr",
                "udp_rr",
                "udp_rr_32",
                "tcp_crr",
                "udp_64"
            ]
        );
    }
}
