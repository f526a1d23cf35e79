//! Every name by which manifests of ten years start things.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;

use crate::container::{Container, FLANNELS, available, host_folder};

#[test]
fn every_name_starts() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let container = Container::new("names", &FLANNELS)?;
    for (words, said) in [
        (&["/opt/bin/flanneld", "--version"][..], "twilld "),
        (&["/opt/bin/entrypoint", "--version"], "twilld "),
        (&["flanneld", "--version"], "twilld "),
        (&["twilld", "--version"], "twilld "),
        (&["twillctl", "--version"], "twillctl "),
        (
            &["/opt/bin/mk-docker-opts.sh", "--help"],
            "-f <FLANNEL-ENV-FILE>",
        ),
        (&["/bin/sh", "-c", "echo $((6 * 7))"], "42"),
        (&["nft", "--version"], "nftables v"),
        (&["iptables-nft", "--version"], "(nf_tables)"),
        (&["ip6tables-legacy-save", "--version"], "(legacy)"),
        (&["iptables", "--version"], "iptables v"),
        (&["ip6tables-restore", "--version"], "ip6tables-"),
        (&["/usr/lib/cni/bridge", "--version"], "CNI bridge plugin"),
    ] {
        let told = container.says(words)?;
        assert!(told.contains(said), "{words:?}: {told}");
    }
    Ok(())
}

/// As the init containers of flannel's manifests, charts and kustomization do it, now and before.
#[test]
fn init_containers_install_what_they_should() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut container = Container::new("init", &FLANNELS)?;
    let (bin, conf) = (host_folder(None)?, host_folder(None)?);
    let config = host_folder(Some(("cni-conf.json", "{}\n")))?;
    container.mount(bin.path(), "/opt/cni/bin");
    container.mount(conf.path(), "/etc/cni/net.d");
    container.mount(config.path(), "/etc/kube-flannel");
    let (from, to) = (
        "/etc/kube-flannel/cni-conf.json",
        "/etc/cni/net.d/10-flannel.conflist",
    );
    let plugin = bin.path().join("flannel");
    let conflist = conf.path().join("10-flannel.conflist");
    let shell = format!("set -e -x; cp -f {from} {to}");
    for words in [
        &["/opt/bin/install-conf", from, to][..],
        &["cp", "-f", from, to],
        &["/bin/sh", "-c", &shell],
    ] {
        container.says(words)?;
        assert_eq!(fs::read_to_string(&conflist)?, "{}\n", "{words:?}");
        fs::remove_file(&conflist)?;
        assert_eq!(fs::read_dir(conf.path())?.count(), 0, "{words:?}");
    }
    // A plugin that runs cannot be written to: it is replaced.
    let sleep = "/bin/sleep";
    fs::copy(sleep, &plugin)?;
    let mut running = std::process::Command::new(&plugin).arg("60").spawn()?;
    let installed = container.says(&["cp", "-f", "/flannel", "/opt/cni/bin/flannel"]);
    running.kill()?;
    running.wait()?;
    installed?;
    let original = fs::read(container.path("/flannel"))?;
    assert!(fs::read(&plugin)? == original, "another plugin");
    assert_eq!(fs::metadata(&plugin)?.permissions().mode() & 0o777, 0o755);
    let args = [
        "cp",
        "-f",
        "/usr/lib/cni/bridge",
        "/usr/lib/cni/loopback",
        "/opt/cni/bin/",
    ];
    container.says(&args)?;
    assert!(bin.path().join("loopback").is_file());
    let missing = container.run(&["/opt/bin/install-conf", "/nowhere", to])?;
    assert!(!missing.status.success());
    assert_eq!(fs::read_dir(conf.path())?.count(), 0);
    Ok(())
}

/// Images that install plugins by their entrypoint, or by a script of their own.
#[test]
fn it_stands_in_for_images_of_plugins() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut container = Container::new("rke2", &FLANNELS)?;
    let bin = host_folder(None)?;
    container.mount(bin.path(), "/host/opt/cni/bin");
    container.says(&["/opt/bin/entrypoint"])?;
    for name in [
        "flannel",
        "bridge",
        "host-local",
        "portmap",
        "loopback",
        "bandwidth",
    ] {
        assert!(bin.path().join(name).is_file(), "{name}");
    }
    let conf = host_folder(None)?;
    container.mount(conf.path(), "/host/etc/cni/net.d");
    let script = "SLEEP=false CNI_CONF_NAME=x.conf CNI_NETWORK_CONFIG='{\"a\":1}' /install-cni.sh";
    container.says(&["/bin/sh", "-c", script])?;
    assert_eq!(
        fs::read_to_string(conf.path().join("x.conf"))?,
        "{\"a\":1}\n"
    );
    Ok(())
}
