//! `twill.*` reaches the daemon's flags.

use std::process::Command;

use serde_json::json;

use crate::helm::{available, daemon, named, ours, render};

/// Every value that is a flag, with another value than its default.
const FLAGS: [(&str, &str, &str); 16] = [
    ("twill.allowPodVxlan=true", "--allow-pod-vxlan", "true"),
    (r#"twill.attachBy="netlink""#, "--attach-by", "netlink"),
    (r#"twill.bpffs.path="/run/bpf""#, "--bpffs", "/run/bpf"),
    (r#"twill.datapath="kernel""#, "--datapath", "kernel"),
    (r#"twill.fastPath="off""#, "--fast-path", "off"),
    (r#"twill.guard="enforce""#, "--guard", "enforce"),
    (r#"twill.guardAttach="tc""#, "--guard-attach", "tc"),
    (r#"twill.logFormat="json""#, "--log-format", "json"),
    (r#"twill.markBit="0x2000""#, "--mark-bit", "0x2000"),
    ("twill.maxPermits=1048576", "--max-permits", "1048576"),
    ("twill.maxRoutes=1000", "--max-routes", "1000"),
    ("twill.maxVteps=1000", "--max-vteps", "1000"),
    ("twill.permitTime=5", "--permit-time", "5"),
    ("twill.resyncInterval=60", "--resync-interval", "60"),
    (r#"twill.runDir="/run/x""#, "--run-dir", "/run/x"),
    (r#"twill.stateDir="/var/x""#, "--state-dir", "/var/x"),
];

/// A flag is a variable, so that a flanneld to which a cluster is taken back does not end at it.
#[test]
fn values_are_variables_of_the_daemons_flags() {
    if !available() {
        return;
    }
    let program = std::env::var("TWILL_BIN_DIR").expect("TWILL_BIN_DIR") + "/twilld";
    let output = Command::new(program)
        .arg("--help")
        .output()
        .expect("twilld");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let plain = daemon(&render(&ours(), &[]).expect("our chart"));
    for (value, flag, expected) in FLAGS {
        let daemon = daemon(&render(&ours(), &[value]).expect("our chart"));
        let variable = format!(
            "FLANNELD_{}",
            flag.trim_start_matches('-')
                .replace('-', "_")
                .to_uppercase()
        );
        let found = named(&daemon["env"], &variable).unwrap_or_else(|| panic!("no {variable}"));
        assert_eq!(found["value"], json!(expected), "{value}");
        assert_eq!(
            named(&plain["env"], &variable),
            None,
            "{variable} by default"
        );
        assert_eq!(daemon["command"], plain["command"], "{value}");
        let known = help
            .split_whitespace()
            .any(|word| word.split_once('[').map_or(word, |(flag, _)| flag) == flag);
        assert!(known, "twilld knows no {flag}");
    }
}

/// Lists are flags, each entry one: no variable can be a list.
#[test]
fn lists_are_flags_before_the_last_word() {
    if !available() {
        return;
    }
    let values = [
        r#"twill.exclude=["10.244.1.7/32","10.244.2.0/24"]"#,
        r#"twill.excludeLinks=["veth1"]"#,
    ];
    let daemon = daemon(&render(&ours(), &values).expect("our chart"));
    assert_eq!(
        daemon["command"],
        json!([
            "/opt/bin/flanneld",
            "--ip-masq",
            "--kube-subnet-mgr",
            "--exclude=10.244.1.7/32",
            "--exclude=10.244.2.0/24",
            "--exclude-link=veth1",
            "--healthz-port=8081"
        ])
    );
}
