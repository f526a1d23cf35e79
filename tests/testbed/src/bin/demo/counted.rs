//! Who encapsulated: BPF, by its own counters, or the kernel, by its device's.

use anyhow::{Context, Result, bail};
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::world::OVERLAY_LINK;

use crate::findings::{Encapsulated, Findings};
use crate::voice::Voice;

pub(crate) fn who_encapsulated(
    voice: &Voice,
    cluster: &Cluster,
    findings: &mut Findings,
) -> Result<()> {
    voice.heading("Who encapsulated the packets between nodes");
    let counts: Result<Vec<_>> = cluster.members.iter().map(count).collect();
    findings.encapsulated = counts?;
    voice.table(&rows(&findings.encapsulated));
    voice.note("A GSO packet counts as one. The kernel carries what BPF passes on, as the first");
    voice.note("packet to a neighbour that is not resolved yet.");
    for counted in &findings.encapsulated {
        if counted.by_bpf == 0 {
            bail!(
                "BPF encapsulated nothing on node {}: the kernel carried everything",
                counted.node
            );
        }
    }
    Ok(())
}

/// The counts of one node until now.
pub(crate) fn count(member: &Member) -> Result<Encapsulated> {
    let counters = member.agent.counters()?;
    let link = member.node.namespace().link_json(OVERLAY_LINK)?;
    let sent = link["stats64"]["tx"]["packets"].as_u64();
    Ok(Encapsulated {
        node: member.node.label().to_owned(),
        by_bpf: counters.packets("to_overlay", "fast")? + counters.packets("from_pod", "fast")?,
        by_kernel: sent.context("a link without counters")?,
        passed_on: counters
            .of("to_overlay")
            .filter(|count| count.reason != "fast" && count.packets > 0)
            .map(|count| (count.reason.clone(), count.packets))
            .collect(),
    })
}

fn rows(counts: &[Encapsulated]) -> Vec<Vec<String>> {
    let head = ["node", "by BPF", "by the kernel", "passed on because"].map(str::to_owned);
    let rows = counts.iter().map(|counted| {
        let reasons = counted.passed_on.iter();
        let reasons: Vec<_> = reasons
            .map(|(reason, packets)| format!("{reason} {packets}"))
            .collect();
        vec![
            counted.node.clone(),
            counted.by_bpf.to_string(),
            counted.by_kernel.to_string(),
            reasons.join(", "),
        ]
    });
    std::iter::once(head.to_vec()).chain(rows).collect()
}
