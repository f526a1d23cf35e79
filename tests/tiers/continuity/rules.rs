//! The tables of nftables that a node has, to compare them before and after an event.

use anyhow::Result;
use twill_testbed::netns::Namespace;

/// Every table by itself, without counters. The order says nothing: it is that of their making.
pub(crate) fn tables(node: &Namespace) -> Result<Vec<String>> {
    let rules = node.run(&["nft", "--stateless", "list", "ruleset"])?;
    // What nft remarks about a table stands in front of it.
    let lines: Vec<_> = rules
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let mut tables: Vec<_> = format!("\n{}", lines.join("\n"))
        .split("\ntable ")
        .map(|table| table.trim().to_owned())
        .filter(|table| !table.is_empty())
        .collect();
    tables.sort_unstable();
    Ok(tables)
}

/// The same without what a teardown and a handover leave on purpose: timeout policies, by which
/// flows live, and no chain that would give them to new ones.
pub(crate) fn tables_but_timeouts(node: &Namespace) -> Result<Vec<String>> {
    let stays = |table: &String| {
        let name = table.split(" {").next().unwrap_or_default();
        name.ends_with(".timeouts") && !table.contains("chain ")
    };
    let mut tables = tables(node)?;
    tables.retain(|table| !stays(table));
    Ok(tables)
}
