//! What every other test here rests on: flows through Services are fast with each kind of rules.

use anyhow::{Result, ensure};
use twill_testbed::traffic::EchoServer;
use twill_tests::required;

use crate::flow::Flow;
use crate::lab::{A, B, Kind, Options, both};
use crate::rules::{Dialect, TCP_TWO, UDP_TWO};

fn services_are_fast(dialect: Dialect) -> Result<()> {
    let options = Options {
        dialect,
        ..Options::default()
    };
    both(options, |lab| {
        let _echo = [
            EchoServer::start(lab.pod(B, 0).namespace())?,
            EchoServer::start(lab.pod(B, 1).namespace())?,
        ];
        Flow::tcp(lab.pod(A, 0), TCP_TWO.at)?.until_fast(lab)?;
        Flow::udp(lab.pod(A, 0), 0, UDP_TWO.at)?.until_fast(lab)?;
        if lab.kind == Kind::Twill {
            let permits = lab.permits(A)?;
            let nat = permits.iter().any(|permit| permit.pod != permit.wire);
            ensure!(nat, "no permit with NAT: {permits:?}");
        }
        Ok(())
    })
}

#[test]
fn services_are_fast_with_iptables_nft() -> Result<()> {
    if !required() {
        return Ok(());
    }
    services_are_fast(Dialect::IptablesNft)
}

#[test]
fn services_are_fast_with_iptables_legacy() -> Result<()> {
    if !required() {
        return Ok(());
    }
    services_are_fast(Dialect::IptablesLegacy)
}

#[test]
fn services_are_fast_with_nftables() -> Result<()> {
    if !required() {
        return Ok(());
    }
    services_are_fast(Dialect::Nftables)
}
