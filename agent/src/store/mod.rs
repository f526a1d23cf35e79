//! Where leases come from.
pub mod server;
