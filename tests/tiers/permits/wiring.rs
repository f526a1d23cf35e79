//! Pods without a bridge: those of the plugin ptp, and those that are wired as Calico does.

use anyhow::Result;
use twill_testbed::subnet_env::Delegate;

use crate::lab::{A, B, Kind, Lab, Options, run};
use crate::rules::ONE;
use crate::talk::{Flow, Server};

fn fast_both_ways(lab: &Lab, port: u16) -> Result<()> {
    let _servers = [A, B]
        .into_iter()
        .map(|node| Server::backend(lab.pod(node, 0), "one"))
        .collect::<Result<Vec<_>>>()?;
    for (from, to) in [(A, B), (B, A)] {
        let pod = lab.pod(from, 0).namespace();
        let to = Server::address(lab.pod(to, 0));
        lab.until_fast(&mut Flow::udp(pod, port, to)?)?;
        lab.until_fast(&mut Flow::tcp(pod, port, to)?)?;
    }
    let pod = lab.pod(A, 0).namespace();
    lab.until_fast(&mut Flow::udp(pod, port + 1, ONE)?)?;
    lab.until_fast(&mut Flow::tcp(pod, port + 1, ONE)?)
}

/// Wires a pod as Calico does: the host's side has no address and answers for every other, the
/// pod's has a prefix of 32 bits and a gateway that nobody is.
fn as_calico(lab: &Lab, node: usize, pod: usize) -> Result<()> {
    let veth = lab.veth(node, pod)?;
    let pod = lab.pod(node, pod);
    let (cali, address) = (format!("cali{}", pod.label()), pod.address());
    lab.host(node).run_lines(&format!(
        "ip link set {veth} down
         ip link set {veth} name {cali}
         ip addr flush dev {cali}
         sysctl -qw net.ipv4.conf.{cali}.proxy_arp=1
         sysctl -qw net.ipv4.neigh.{cali}.proxy_delay=0
         ip link set {cali} up
         ip route replace {address}/32 dev {cali} scope link"
    ))?;
    pod.namespace().run_lines(&format!(
        "ip addr flush dev eth0
         ip route flush dev eth0
         ip addr add {address}/32 dev eth0
         ip route add 169.254.1.1 dev eth0 scope link
         ip route add default via 169.254.1.1 dev eth0"
    ))
}

#[test]
fn flows_are_fast_whatever_the_pods_wiring() -> Result<()> {
    let routed = Options {
        delegate: Delegate::Ptp,
        ..Options::default()
    };
    run(&Kind::ALL, routed, |lab| {
        for node in [A, B] {
            // The plugin leaves that to whoever configures it; Services are outside the network.
            let gateway = lab.member(node).env.gateway();
            let default = format!("ip route add default via {gateway} dev eth0");
            lab.pod(node, 0).namespace().run_lines(&default)?;
        }
        fast_both_ways(lab, 6800)?;
        for node in [A, B] {
            as_calico(lab, node, 0)?;
        }
        fast_both_ways(lab, 6900)
    })
    .map(drop)
}
