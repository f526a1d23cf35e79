//! Flannel's masquerading, where it was asked for.

use tracing::info;
use twill_core::subnet::Subnet;

use super::failures::Failures;
use crate::netfilter::{Keeper, Kept, MasqueradeTable};

/// The masquerade table, kept in force.
#[derive(Debug, Default)]
pub(super) struct Masquerade {
    table: Keeper<MasqueradeTable>,
}

impl Masquerade {
    /// Puts the table in force, or finds it so.
    pub(super) async fn assert(
        &mut self,
        network: Subnet,
        own_subnet: Subnet,
        failures: &mut Failures,
    ) {
        let table = MasqueradeTable {
            network,
            own_subnet,
        };
        match self.table.keep(table).await {
            Ok(Kept::AsTheyWere) => {}
            Ok(Kept::Written | Kept::Restored) => info!("what leaves the overlay is masqueraded"),
            Err(error) => failures.add("masquerade", &error),
        }
    }
}
