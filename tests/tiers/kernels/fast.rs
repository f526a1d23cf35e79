//! Permits, where BPF can encapsulate.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use twill_testbed::traffic::echo::ECHO_PORT;
use twill_testbed::traffic::tcp_echo;

use crate::lab::{Lab, Options, has, run};
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

#[test]
fn flows_become_fast() -> Result<()> {
    run(Options::default(), |lab| {
        let by = if has("TCX link") { "tcx" } else { "netlink" };
        for program in ["to_overlay", "from_uplink", "to_uplink", "from_pod"] {
            let found = Lab::attached_by(lab.a(), program)?;
            ensure!(found == by, "{program} is attached by {found}");
        }
        flows_are_fast(lab)
    })
}

#[test]
fn flows_become_fast_by_filters() -> Result<()> {
    let options = Options {
        flags: &["--attach-by", "netlink"],
        ..Options::default()
    };
    run(options, |lab| {
        let found = Lab::attached_by(lab.a(), "from_pod")?;
        ensure!(found == "netlink", "attached by {found}");
        flows_are_fast(lab)
    })
}

#[test]
fn loss_delay_and_reordering_change_no_byte() -> Result<()> {
    run(Options::default(), |lab| {
        // On the switch: a qdisc on an uplink is somebody's reason to see every packet there.
        lab.cluster.underlay.switch().run_lines(
            "tc qdisc add dev a root netem delay 4ms 2ms loss 1% reorder 20%
             tc qdisc add dev b root netem delay 4ms 2ms loss 1% reorder 20%",
        )?;
        let mut talk = Talk::tcp(lab.client(), lab.echo())?;
        lab.until_fast(&mut talk)?;
        tcp_echo(lab.client(), lab.server(), 500_000)?;
        (0..50).try_for_each(|_| talk.ask())
    })
}

#[test]
fn a_service_by_ipvs_is_served() -> Result<()> {
    run(Options::default(), |lab| {
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
    })
}
