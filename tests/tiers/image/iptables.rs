//! `iptables` in the image is of the kind that the host uses.

use anyhow::Result;

use crate::container::{Container, FLANNELS, available};

#[test]
fn the_kind_is_the_hosts() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let kind = |container: &Container| container.says(&["iptables", "--version"]);
    let container = Container::new("kind", &FLANNELS)?;
    // Nobody has rules: the newer kind.
    assert!(kind(&container)?.contains("nf_tables"));
    // More rules of the older kind.
    container
        .namespace
        .run_lines("iptables-legacy -A INPUT -s 192.0.2.1 -j ACCEPT")?;
    assert!(kind(&container)?.contains("legacy"));
    // The kubelet's word is worth more than any number.
    container
        .namespace
        .run_lines("iptables-nft -t mangle -N KUBE-KUBELET-CANARY")?;
    assert!(kind(&container)?.contains("nf_tables"));
    container.namespace.run_lines(
        "iptables-nft -t mangle -X KUBE-KUBELET-CANARY
         ip6tables-legacy -t mangle -N KUBE-IPTABLES-HINT
         iptables-nft -A INPUT -s 192.0.2.1 -j ACCEPT
         iptables-nft -A INPUT -s 192.0.2.2 -j ACCEPT",
    )?;
    assert!(kind(&container)?.contains("legacy"));
    Ok(())
}

/// It is asked once in the life of a pod: a daemon that asks every few seconds costs nothing.
#[test]
fn the_kind_is_kept_in_the_pods_memory() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let container = Container::new("kept", &FLANNELS)?;
    let script = "iptables --version && cat /dev/shm/iptables-kind && \
                  echo legacy > /dev/shm/iptables-kind && ip6tables-save --version";
    let told = container.says(&["/bin/sh", "-c", script])?;
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines[1], "nft", "{told}");
    assert!(
        lines[2].starts_with("ip6tables-save") && lines[2].contains("legacy"),
        "{told}"
    );
    Ok(())
}
