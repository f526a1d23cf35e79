//! Permits, where BPF can encapsulate.

mod full;
mod ipsec;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::traffic::echo::ECHO_PORT;
use twill_testbed::traffic::tcp_echo;

use crate::lab::{Lab, Options, PERMIT_TIME, has, run};
use crate::talk::Talk;

/// The address of a Service.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// TCP and UDP become fast in both directions on both nodes, and stay whole over several
/// permit times.
fn flows_are_fast(lab: &Lab) -> Result<()> {
    let mut udp = Talk::udp(lab.client(), lab.echo())?;
    lab.until_fast(&mut udp)?;
    let mut tcp = Talk::tcp(lab.client(), lab.echo())?;
    lab.until_fast(&mut tcp)?;
    tcp_echo(lab.client(), lab.server(), 1_000_000)
}

/// One pair of nodes for all of it: on an emulated processor making them takes longest.
#[test]
fn flows_are_fast_whatever_comes() -> Result<()> {
    run(Options::default(), |lab| {
        let by = if has("TCX link") { "tcx" } else { "netlink" };
        for program in ["to_overlay", "from_uplink", "to_uplink", "from_pod"] {
            let found = Lab::attached_by(lab.a(), program)?;
            ensure!(found == by, "{program} is attached by {found}");
        }
        flows_are_fast(lab).context("at first")?;
        a_rule_ends_a_flow(lab).context("a rule")?;
        loss_delay_and_reordering_change_no_byte(lab).context("netem")?;
        a_service_by_ipvs_is_served(lab).context("IPVS")?;
        nobody_misses_the_daemons(lab).context("without daemons")?;
        ipsec::holds(lab).context("IPsec")?;
        full::judge(lab).context("a full conntrack table")
    })
}

/// A rule that forbids a fast flow ends it within the permit time, and when the rule goes flows
/// are fast again.
fn a_rule_ends_a_flow(lab: &Lab) -> Result<()> {
    let mut udp = Talk::udp(lab.client(), lab.echo())?;
    lab.until_fast(&mut udp)?;
    let node = lab.b().node.namespace();
    node.run_lines(
        "nft add table inet firewall
         nft add chain inet firewall forward { type filter hook forward priority 0 ; }
         nft add rule inet firewall forward meta l4proto udp drop",
    )?;
    let begin = Instant::now();
    udp.set_patience(PERMIT_TIME)?;
    while udp.ask().is_ok() {
        let since = begin.elapsed();
        ensure!(since < 2 * PERMIT_TIME, "it still is there after {since:?}");
    }
    node.run_lines("nft delete table inet firewall")?;
    lab.until_fast(&mut Talk::udp(lab.client(), lab.echo())?)
}

/// Flows go on, and new ones become fast, while no agent runs and when they are back.
fn nobody_misses_the_daemons(lab: &mut Lab) -> Result<()> {
    let mut old = Talk::tcp(lab.client(), lab.echo())?;
    lab.until_fast(&mut old)?;
    for member in &mut lab.cluster.members {
        member.agent.kill()?;
    }
    lab.until_fast(&mut old)?;
    let mut new = Talk::udp(lab.client(), lab.echo())?;
    lab.until_fast(&mut new)?;
    for member in &mut lab.cluster.members {
        member.agent.start_again()?;
        member.agent.wait_ready()?;
        (0..20).try_for_each(|_| old.ask().and_then(|()| new.ask()))?;
    }
    lab.until_fast(&mut old)
}

fn loss_delay_and_reordering_change_no_byte(lab: &Lab) -> Result<()> {
    // On the switch: a qdisc on an uplink is somebody's reason to see every packet there.
    let switch = lab.cluster.underlay.switch();
    switch.run_lines(
        "tc qdisc add dev a root netem delay 4ms 2ms loss 1% reorder 20%
         tc qdisc add dev b root netem delay 4ms 2ms loss 1% reorder 20%",
    )?;
    let mut talk = Talk::tcp(lab.client(), lab.echo())?;
    lab.until_fast(&mut talk)?;
    tcp_echo(lab.client(), lab.server(), 500_000)?;
    (0..50).try_for_each(|_| talk.ask())?;
    switch.run_lines(
        "tc qdisc del dev a root
         tc qdisc del dev b root",
    )
}

fn a_service_by_ipvs_is_served(lab: &Lab) -> Result<()> {
    let service = SocketAddrV4::new(SERVICE, ECHO_PORT);
    let backend = lab.echo();
    for member in &lab.cluster.members {
        // As kube-proxy's mode ipvs sets a node up.
        let node = member.node.namespace();
        node.set_sysctl("net.ipv4.vs.conntrack", "1")?;
        node.run_lines(&format!(
            "ip link add kube-ipvs0 type dummy
             ip addr add {SERVICE}/32 dev kube-ipvs0
             ipvsadm -A -t {service} -s rr
             ipvsadm -a -t {service} -r {backend} -m
             ipvsadm -A -u {service} -s rr
             ipvsadm -a -u {service} -r {backend} -m"
        ))?;
    }
    lab.until_fast(&mut Talk::tcp(lab.client(), service)?)?;
    lab.until_fast(&mut Talk::udp(lab.client(), service)?)
}
