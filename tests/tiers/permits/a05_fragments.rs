//! A5: outer fragments of a stock peer are put together and delivered whole, although their
//! first one looks like a packet of a fast flow.

use anyhow::{Result, ensure};
use twill_testbed::world::NODE_B;

use crate::lab::{A, B, Kind, Lab, Options, run};
use crate::talk::{Flow, Server};

/// Fits the overlay, and with 50 bytes more does not fit the route.
const LARGE: usize = 1400;
const TIMES: u64 = 20;

fn fragments_arrive_whole(lab: &Lab) -> Result<()> {
    let _echo = Server::backend(lab.pod(B, 0), "one")?;
    let mut flow = Flow::udp(
        lab.pod(A, 0).namespace(),
        5601,
        Server::address(lab.pod(B, 0)),
    )?;
    lab.until_fast(&mut flow)?;
    // The way to the peer is narrower than the uplink: the kernel fragments the outer packets.
    lab.on(
        A,
        &format!("ip route replace {NODE_B}/32 dev eth0 mtu 1400"),
    )?;
    let before = lab.count(B, "from_uplink", "fragment")?;
    flow.pad_to(LARGE, 0);
    flow.ask_times(TIMES)?;
    if lab.kind == Kind::Twill {
        let fragments = lab.count(B, "from_uplink", "fragment")? - before;
        ensure!(fragments >= 2 * TIMES, "{fragments} fragments came");
        ensure!(lab.is_live(B, 5601)?, "no permit any more");
    }
    Ok(())
}

#[test]
fn a05_outer_fragments_of_a_stock_peer_arrive_whole() -> Result<()> {
    let options = Options {
        stock_sender: true,
        ..Options::default()
    };
    run(&Kind::ALL, options, |lab| fragments_arrive_whole(lab)).map(drop)
}
