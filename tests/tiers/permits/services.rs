//! What every other test here rests on: flows through Services are fast with each kind of rules.

use anyhow::{Result, ensure};

use crate::lab::{A, B, Lab, Options, both};
use crate::rules::{Dialect, TWO};
use crate::talk::{Flow, Server};

fn services_are_fast(lab: &Lab) -> Result<()> {
    let _servers = [
        Server::backend(lab.pod(B, 0), "one")?,
        Server::backend(lab.pod(B, 1), "two")?,
    ];
    lab.until_fast(&mut Flow::tcp(lab.pod(A, 0).namespace(), 0, TWO)?)?;
    lab.until_fast(&mut Flow::udp(lab.pod(A, 0).namespace(), 0, TWO)?)?;
    if lab.has_programs() {
        let permits = lab.permits(A)?;
        let nat = permits.iter().any(|permit| permit.pod != permit.wire);
        ensure!(nat, "no permit with NAT: {permits:?}");
    }
    Ok(())
}

#[test]
fn services_are_fast_with_iptables_nft() -> Result<()> {
    both(Options::dialect(Dialect::IptablesNft), |lab| {
        services_are_fast(lab)
    })
}

#[test]
fn services_are_fast_with_iptables_legacy() -> Result<()> {
    both(Options::dialect(Dialect::IptablesLegacy), |lab| {
        services_are_fast(lab)
    })
}

#[test]
fn services_are_fast_with_nftables() -> Result<()> {
    both(Options::dialect(Dialect::Nftables), |lab| {
        services_are_fast(lab)
    })
}
