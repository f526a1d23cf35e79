//! The read-only source: what the kernel already has, whoever wrote it.

use super::{Listing, Position};
use crate::backend::Backend;
use crate::observed::ObservedKernel;

impl Listing {
    /// The leases that an observation stands for, as the backend recognises them. There is nothing
    /// that could be replaced: what the kernel does not have is gone.
    pub fn of_kernel(backend: &Backend, kernel: &ObservedKernel) -> Self {
        Self {
            position: Position::new("kernel"),
            replaced: false,
            leases: backend.leases(kernel),
            unread: Vec::new(),
        }
    }
}
