//! Every pod reaches every pod.

use anyhow::{Context, Result};
use twill_testbed::cluster::Cluster;
use twill_testbed::pod::Pod;
use twill_testbed::traffic::{EchoServer, ping, tcp_echo};
use twill_testbed::wait::check_interrupt;

use crate::findings::{Findings, Reach};
use crate::voice::Voice;

/// Bytes of each ping, and of each TCP exchange in both directions.
const PING: usize = 56;
const TCP: usize = 256 * 1024;

pub(crate) fn every_pod_reaches_every_pod(
    voice: &Voice,
    cluster: &Cluster,
    findings: &mut Findings,
) -> Result<()> {
    voice.heading("Every pod reaches every pod");
    let pods: Vec<(&str, &Pod)> = cluster
        .members
        .iter()
        .flat_map(|member| member.pods.iter().map(|pod| (member.node.label(), pod)))
        .collect();
    let servers: Result<Vec<_>> = pods
        .iter()
        .map(|(_, pod)| EchoServer::start(pod.namespace()))
        .collect();
    let servers = servers?;

    let mut reach = Reach {
        pairs: 0,
        pairs_across_nodes: 0,
    };
    for (from_node, from) in &pods {
        for (to_node, to) in &pods {
            if from.address() == to.address() {
                continue;
            }
            check_interrupt()?;
            exchange(from, to).with_context(|| {
                format!(
                    "pod {} on node {from_node} does not reach pod {} on node {to_node}",
                    from.address(),
                    to.address()
                )
            })?;
            reach.pairs += 1;
            reach.pairs_across_nodes += usize::from(from_node != to_node);
        }
        voice.proved(format_args!(
            "{} on node {from_node} reaches the {} others by ping and TCP",
            from.address(),
            pods.len() - 1
        ));
    }
    drop(servers);
    voice.note(&format!(
        "{} pairs, {} of them across nodes; each a ping and a TCP echo of {} KiB, contents checked",
        reach.pairs,
        reach.pairs_across_nodes,
        TCP / 1024
    ));
    findings.reach = Some(reach);
    Ok(())
}

fn exchange(from: &Pod, to: &Pod) -> Result<()> {
    ping(from.namespace(), to.address(), PING)?;
    tcp_echo(from.namespace(), to.address(), TCP)
}
