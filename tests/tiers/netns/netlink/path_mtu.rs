//! MTUs that routes carry: found by the route that holds, heard of when they change.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use twill_agent::netlink::Netlink;

use super::monitor::listening;
use super::{UPLINK, inside};

/// The address of the uplink.
const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// What the routes say of the three, and whether any says anything.
async fn said(netlink: &Netlink) -> Result<(bool, BTreeMap<IpAddr, u32>)> {
    let carried = !netlink.routes_with_mtus().await?.is_empty();
    Ok((
        carried,
        netlink
            .route_mtus((HERE, 8472), [NEAR, FAR, NOWHERE])
            .await?,
    ))
}

#[test]
fn the_mtu_is_that_of_the_route_that_holds() -> Result<()> {
    let setup = format!("{UPLINK}\nip route add 198.51.100.0/24 via 192.0.2.254");
    inside(&setup, async |namespace, netlink| {
        let none = (false, BTreeMap::new());
        assert_eq!(said(&netlink).await?, none);
        namespace.run_lines("ip route add 198.51.100.7/32 via 192.0.2.254 mtu 1400")?;
        assert_eq!(said(&netlink).await?, (true, [(FAR.into(), 1400)].into()));
        // By policy, and locked.
        namespace.run_lines(
            "ip route add 192.0.2.0/24 dev eth0 mtu lock 1300 table 77
             ip rule add to 192.0.2.0/24 lookup 77",
        )?;
        let both = [(FAR.into(), 1400), (NEAR.into(), 1300)];
        assert_eq!(said(&netlink).await?, (true, both.into()));
        namespace.run_lines(
            "ip rule del to 192.0.2.0/24 lookup 77
             ip route del 198.51.100.7/32",
        )?;
        assert_eq!(said(&netlink).await?, (true, BTreeMap::new()));
        Ok(())
    })
}

#[test]
fn the_monitor_hears_of_routes_with_mtus_and_then_of_all() -> Result<()> {
    inside(UPLINK, async |namespace, netlink| {
        let mut ear = listening(&netlink).await?;
        namespace.run_lines("ip route add 198.51.100.7/32 via 192.0.2.254")?;
        ear.hears_nothing("a route of somebody's").await;
        namespace.run_lines("ip route replace 198.51.100.7/32 via 192.0.2.254 mtu 1400")?;
        ear.hears("it carries an MTU").await;
        ear.monitor.watch_mtus(true);
        namespace.run_lines("ip route replace 198.51.100.7/32 via 192.0.2.254")?;
        ear.hears("it carries none any more").await;
        Ok(())
    })
}
