//! Flannel's masquerading, where it was asked for: written, and put back when somebody changes it.

use tracing::{info, warn};
use twill_core::subnet::Subnet;

use super::failures::Failures;
use crate::netfilter::{InForce, MasqueradeTable, TableError};

/// The masquerade table as it was written.
#[derive(Debug, Default)]
pub(super) struct Masquerade {
    in_force: Option<(MasqueradeTable, InForce)>,
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
        if let Err(error) = self.try_assert(table).await {
            failures.add("masquerade", &error);
        }
    }

    async fn try_assert(&mut self, table: MasqueradeTable) -> Result<(), TableError> {
        if let Some((written, in_force)) = &self.in_force
            && *written == table
        {
            if in_force.is_so().await? {
                return Ok(());
            }
            warn!("the nftables table ip flannel-ipv4 was changed or removed; writing it again");
        }
        self.in_force = Some((table, table.write().await?));
        info!("what leaves the overlay is masqueraded");
        Ok(())
    }
}
