//! Traffic between namespaces, every byte of it checked.
//!
//! All of it is made by sockets that this process opens inside the namespaces; only
//! throughput is measured by iperf3.

pub mod echo;
pub mod iperf;
pub mod load;
mod pattern;
pub mod ping;
mod socket;

pub use echo::{EchoServer, tcp_echo, udp_echo};
pub use iperf::{Throughput, throughput};
pub use load::{Load, Report};
pub use ping::ping;
pub use socket::again;
