//! What teardown takes away, and what it leaves.

use anyhow::{Context as _, Result};
use twill_testbed::netns::Namespace;
use twill_tests::required;

use super::{pair, wait_attached};

const SETTINGS: [&str; 4] = [
    "nf_conntrack_tcp_be_liberal",
    "nf_conntrack_tcp_ignore_invalid_rst",
    "nf_conntrack_tcp_timeout_unacknowledged",
    "nf_conntrack_tcp_timeout_max_retrans",
];

fn settings(node: &Namespace) -> Result<Vec<String>> {
    SETTINGS
        .iter()
        .map(|name| node.sysctl(&format!("net.netfilter.{name}")))
        .collect()
}

fn tables(node: &Namespace) -> Result<String> {
    node.run(&["nft", "list", "tables"])
}

#[test]
fn teardown_takes_the_table_and_leaves_the_conntrack_settings() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = pair()?;
    wait_attached(&cluster)?;
    let member = &mut cluster.members[0];
    let node = member.node.namespace();
    node.run(&["nft", "add table inet twill_of_somebody"])?;
    let forced = ["1", "1", "300", "300"];
    assert_eq!(settings(node)?, forced);
    let table = member.agent.table();
    let lines = [
        format!("table inet {table}\n"),
        format!("table inet {table}.timeouts\n"),
    ];
    let found = tables(node)?;
    assert!(lines.iter().all(|line| found.contains(line)), "{found}");
    member.agent.stop()?;

    let said = member.agent.ctl(&["teardown"])?;
    let steps = said["steps"].as_array().context("no steps")?;
    assert!(
        steps
            .iter()
            .any(|step| step["what"] == format!("remove the nftables table inet {table}")),
        "{said}"
    );
    assert!(steps.iter().all(|step| step["error"].is_null()), "{said}");
    let why = said["kept"]["why"].as_str().unwrap_or_default();
    assert!(why.contains("--restore-sysctl"), "{said}");
    assert_eq!(said["kept"]["settings"][SETTINGS[0]], 1);
    assert_eq!(settings(node)?, forced, "they stay");
    let left = tables(node)?;
    assert!(!left.contains(&lines[0]), "{left}");
    assert!(left.contains("twill_of_somebody"), "{left}");
    // Connections that were fast keep their timeouts, and no further one gets one.
    let list = ["nft", "list", "table", "inet", &format!("{table}.timeouts")];
    let left = node.run(&list)?;
    assert!(
        left.contains("ct timeout tcp-") && !left.contains("chain"),
        "{left}"
    );

    member.agent.ctl(&["teardown", "--restore-sysctl"])?;
    let left = tables(node)?;
    assert!(!left.contains(&lines[1]), "{left}");
    assert_eq!(settings(node)?, ["0", "0", "300", "300"]);
    let text = member.agent.ctl_text(&["teardown"])?;
    assert!(text.contains("nothing of this instance is here"), "{text}");
    Ok(())
}

#[test]
fn teardown_goes_on_after_an_error() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = pair()?;
    wait_attached(&cluster)?;
    let member = &mut cluster.members[0];
    let node = member.node.namespace();
    member.agent.stop()?;
    // A status file that cannot be removed.
    let status = member
        .agent
        .run_dir()
        .join(member.agent.instance())
        .join("status.json");
    std::fs::remove_file(&status)?;
    std::fs::create_dir_all(status.join("in-the-way"))?;
    let refused = member.agent.ctl(&["teardown"]);
    let error = format!("{:#}", refused.expect_err("one step failed"));
    assert!(error.contains("exit status: 1"), "{error}");
    assert!(!member.agent.pins().exists(), "the rest is gone");
    assert!(!tables(node)?.contains(&format!("table inet {}\n", member.agent.table())));
    Ok(())
}
