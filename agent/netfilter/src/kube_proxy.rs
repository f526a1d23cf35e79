//! What kube-proxy on this node writes its rules with.

use tracing::debug;

use super::program;
use super::traffic::Tool;

/// kube-proxy's table, in mode nftables (`pkg/proxy/nftables/proxier.go`, v1.37).
const TABLE: &str = "kube-proxy";
/// A chain of one rule that it has in modes iptables and ipvs, in table nat.
const CHAIN: &str = "KUBE-MARK-MASQ";

/// Its tool, by its rules; `None` where it has none, or they cannot be read: before it starts, and
/// where there is none.
pub async fn tool_of_kube_proxy() -> Option<Tool> {
    match program::run("nft", &["list", "tables"], "").await {
        Ok(printed) if has_table(&String::from_utf8_lossy(&printed)) => {
            return Some(Tool::Nftables);
        }
        Ok(_) => {}
        Err(error) => debug!(%error, "nftables' tables cannot be read"),
    }
    // By whichever kind `iptables` is: kube-proxy's is of the same one, or the node is in trouble.
    for program in ["iptables", "ip6tables"] {
        let found = program::run(program, &["-w", "2", "-t", "nat", "-S", CHAIN], "").await;
        if found.is_ok() {
            return Some(Tool::Iptables);
        }
    }
    None
}

/// Whether `nft list tables` prints kube-proxy's, of either family.
fn has_table(printed: &str) -> bool {
    printed.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        matches!(words.as_slice(), ["table", "ip" | "ip6", TABLE])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kube_proxys_own_table_is_its() {
        for (printed, expected) in [
            ("", false),
            ("table ip kube-proxy\n", true),
            ("table inet twill\ntable ip6 kube-proxy\n", true),
            ("table inet kube-proxy\n", false),
            ("table ip kube-proxy-old\ntable ip nat\n", false),
        ] {
            assert_eq!(has_table(printed), expected, "{printed:?}");
        }
    }
}
