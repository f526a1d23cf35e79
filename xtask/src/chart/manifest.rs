//! The plain manifest: the chart, rendered with a file of values.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::Made;
use crate::{places, process};

/// The manifest; `charts/kube-twill.values.yaml` is what it is rendered with.
const FILE: &str = "charts/kube-twill.yml";

const HEAD: &str = "\
# Twill for a cluster without Helm: kubectl apply -f kube-twill.yml
# Made from charts/twill and charts/kube-twill.values.yaml by `cargo xtask chart --bless`.
";

pub(super) fn made(helm: &Path) -> Result<Made> {
    let file = places::root().join(FILE);
    let mut command = Command::new(helm);
    command
        .current_dir(places::root().join("charts"))
        .args(["template", "flannel", "twill", "--namespace=kube-flannel"])
        .arg("--values=kube-twill.values.yaml");
    let rendered = process::stdout(&mut command)?;
    Ok(Made {
        is: fs::read_to_string(&file).unwrap_or_default(),
        should: format!("{HEAD}{}", without_sources(&rendered)),
        file,
    })
}

/// Without Helm's remarks on where each object is from, and the empty lines around them.
fn without_sources(rendered: &str) -> String {
    let lines = rendered.lines();
    let lines = lines.filter(|line| !line.starts_with("# Source: ") && !line.is_empty());
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helm_remarks_is_left_out() {
        assert_eq!(
            without_sources("---\n# Source: a/b.yaml\nkind: A\n  # kept\n\n---\nkind: B\n"),
            "---\nkind: A\n  # kept\n---\nkind: B\n"
        );
    }
}
