//! The command line, as flannel's users write it.

use clap::CommandFactory as _;

use super::*;

fn read(
    words: &[&str],
    environment: &[(&str, &str)],
) -> Result<(Twilld, Vec<String>), clap::Error> {
    let words: Vec<OsString> = words.iter().map(Into::into).collect();
    let environment: Vec<(OsString, OsString)> = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    Twilld::read(&words, &environment)
}

fn parse(words: &[&str]) -> Result<Twilld, clap::Error> {
    read(words, &[]).map(|(parsed, _)| parsed)
}

fn agent(words: &[&str]) -> AgentArgs {
    parse(words).unwrap().agent
}

fn choices(words: &[&str]) -> Vec<String> {
    let choices = parse(words).unwrap().agent.uplink_choices();
    choices.iter().map(ToString::to_string).collect()
}

#[test]
fn clap_finds_no_contradiction() {
    Twilld::command().debug_assert();
}

#[test]
fn the_uplink_is_looked_for_in_flannel_s_order() {
    assert_eq!(choices(&[]), ["the default route"]);
    assert_eq!(
        choices(&["--public-ip", "192.0.2.1"]),
        ["the address 192.0.2.1"]
    );
    assert_eq!(
        choices(&[
            "--iface-can-reach=192.0.2.1",
            "--iface-regex=^eth",
            "--iface=eth1",
            "--iface",
            "192.0.2.1",
            "--iface-regex=10[.]",
            "--public-ip=203.0.113.1",
        ]),
        [
            "the name eth1",
            "the address 192.0.2.1",
            "--iface-regex ^eth",
            "--iface-regex 10[.]",
            "--iface-can-reach 192.0.2.1",
        ]
    );
}

#[test]
fn a_wrong_value_is_answered_with_flag_and_value() {
    for (words, flag) in [
        (["--public-ip", "1.2.3"], "--public-ip"),
        (["--instance", "a.b"], "--instance"),
        (["--datapath", "fast"], "--datapath"),
        (["--healthz-port", "70000"], "--healthz-port"),
        (["--tc-priority", "0"], "--tc-priority"),
        (["--max-vteps", "0"], "--max-vteps"),
        (["--max-permits", "9999999"], "--max-permits"),
        (["--resync-interval", "0"], "--resync-interval"),
        (["--iptables-resync", "0"], "--iptables-resync"),
        (["--exclude", "10.244.0.0/33"], "--exclude"),
        (["--mark-bit", "0x3000"], "--mark-bit"),
    ] {
        let text = parse(&words).unwrap_err().to_string();
        assert!(text.contains(flag), "{text}");
        assert!(text.contains(words[1]), "{text}");
    }
}

#[test]
fn the_lease_server_is_a_subcommand() {
    let parsed = parse(&["serve", "--network-config", "n.json", "--data-dir", "d"]).unwrap();
    assert!(matches!(parsed.command, Some(Command::Serve(_))));
}

#[test]
fn one_dash_is_as_good_as_two() {
    for words in [
        ["-public-ip", "192.0.2.1", "-ip-masq"].as_slice(),
        &["--public-ip=192.0.2.1", "--ip-masq=T"],
        &["-public-ip=192.0.2.1", "-ip-masq=1"],
        &[
            "-public-ip=192.0.2.9",
            "--public-ip",
            "192.0.2.1",
            "-ip-masq=false",
            "-ip-masq",
        ],
    ] {
        let args = agent(words);
        assert_eq!(
            args.public_ip,
            Some(Ipv4Addr::new(192, 0, 2, 1)),
            "{words:?}"
        );
        assert!(args.ip_masq, "{words:?}");
    }
}

#[test]
fn every_flag_of_flannel_is_taken() {
    let args = agent(&[
        "-etcd-endpoints=https://a:2379,https://b:2379",
        "-etcd-prefix=/x",
        "-etcd-keyfile=k",
        "-etcd-certfile=c",
        "-etcd-cafile=a",
        "-etcd-username=u",
        "-etcd-password=p",
        "-iface=eth0",
        "-iface-regex=^eth",
        "-iface-can-reach=192.0.2.1",
        "-subnet-file=/s",
        "-public-ip=192.0.2.1",
        "-public-ipv6=2001:db8::1",
        "-subnet-lease-renew-margin=0x3c",
        "-ip-masq",
        "-ip-masq-fully-random-disable",
        "-kube-subnet-mgr=false",
        "-kube-api-url=https://k",
        "-kube-annotation-prefix=x.org",
        "-kubeconfig-file=/k",
        "-healthz-ip=127.0.0.1",
        "-healthz-port=8_080",
        "-iptables-resync=7",
        "-iptables-forward-rules=false",
        "-ip-blackhole-route",
        "-net-config-path=/n",
        "-set-node-network-unavailable=F",
        "-v=2",
        "-vmodule=x=1",
        "-log_backtrace_at=a.go:1",
    ]);
    assert_eq!(args.etcd.etcd_endpoints, "https://a:2379,https://b:2379");
    assert_eq!(
        args.etcd.etcd_password.as_ref().map(Secret::reveal),
        Some("p")
    );
    assert_eq!(args.etcd.subnet_lease_renew_margin, 60);
    assert_eq!(args.iface_regex.len(), 1);
    assert_eq!(args.healthz_port, 8080);
    assert_eq!(args.iptables_resync, Duration::from_secs(7));
    assert!(!args.iptables_forward_rules && !args.kube.set_node_network_unavailable);
    assert!(args.ip_blackhole_route && args.ip_masq_fully_random_disable);
    assert!(args.check().is_ok());
}

#[test]
fn defaults_are_flannels() {
    let args = agent(&[]);
    let etcd = &args.etcd;
    assert_eq!(
        etcd.etcd_endpoints,
        "http://127.0.0.1:4001,http://127.0.0.1:2379"
    );
    assert_eq!(etcd.etcd_prefix, "/coreos.com/network");
    assert_eq!(etcd.subnet_lease_renew_margin, 60);
    assert_eq!(args.subnet_file, PathBuf::from("/run/flannel/subnet.env"));
    assert_eq!(args.iptables_resync, Duration::from_secs(5));
    assert!(args.iptables_forward_rules && args.kube.set_node_network_unavailable);
    assert!(!args.ip_masq && !args.ip_blackhole_route && !args.kube.kube_subnet_mgr);
    assert_eq!(args.healthz_port, 0);
    assert_eq!(args.store().unwrap(), StoreChoice::Etcd);
}

#[test]
fn a_value_may_begin_with_a_dash() {
    let args = agent(&["-iface", "-ip-masq", "-ip-masq=0"]);
    assert_eq!(
        (args.iface, args.ip_masq),
        (vec!["-ip-masq".to_owned()], false)
    );
}

#[test]
fn the_first_stray_word_ends_the_flags() {
    let (parsed, ignored) = read(
        &["-ip-masq", "false", "-iface=eth0"],
        &[("FLANNELD_IFACE", "eth1")],
    )
    .unwrap();
    assert!(parsed.agent.ip_masq);
    // What was not read does not count as given.
    assert_eq!(parsed.agent.iface, ["eth1"]);
    assert_eq!(ignored.len(), 1);
    assert!(
        ignored[0].contains("word 2") && !ignored[0].contains("eth0"),
        "{ignored:?}"
    );
    let (parsed, ignored) = read(&["-ip-masq", "--", "-iface=eth0"], &[]).unwrap();
    assert_eq!((parsed.agent.iface.len(), ignored.len()), (0, 1));
}

#[test]
fn help_and_version_are_answers() {
    for words in [["-version"], ["--version"], ["-help"], ["-h"]] {
        let answer = parse(&words).unwrap_err();
        assert!(!answer.use_stderr(), "{words:?}");
        assert_eq!(answer.exit_code(), 0, "{words:?}");
    }
}

#[test]
fn what_is_no_flag_is_no_start() {
    for words in [
        // Of flannel's old days.
        ["-etcd-endpoint=http://192.0.2.1:4001"].as_slice(),
        &["-listen=:8080"],
        &["-remote=192.0.2.1:8080"],
        &["-networks=a,b"],
        &["-use-multi-cluster-cidr"],
        &["-frobnicate"],
        &["--ip-mask"],
        &["frobnicate"],
        &["-"],
        &["-=x"],
    ] {
        let error = parse(words).unwrap_err();
        assert!(error.use_stderr(), "{words:?}");
        assert_eq!(error.exit_code(), 2, "{words:?}");
    }
    assert!(
        parse(&["-public-ip"])
            .unwrap_err()
            .to_string()
            .contains("--public-ip")
    );
}

#[test]
fn an_empty_value_is_none() {
    let args = agent(&[
        "--public-ip=192.0.2.1",
        "--public-ip=",
        "--iface=",
        "--etcd-password=",
    ]);
    assert_eq!(args.public_ip, None);
    assert!(args.etcd.etcd_password.is_none());
    // An entry of a list without text is there, and chooses nothing.
    for (words, expected) in [
        (
            ["--iface=", "--iface=eth1"],
            ["the default route", "the name eth1"],
        ),
        (
            ["--iface=eth1", "--iface="],
            ["the name eth1", "the default route"],
        ),
        (
            ["--iface-regex=^eth", "--iface-regex="],
            ["--iface-regex ^eth", "the default route"],
        ),
        (
            ["--iface=", "--iface-can-reach=192.0.2.1"],
            ["the default route", "--iface-can-reach 192.0.2.1"],
        ),
    ] {
        assert_eq!(choices(&words), expected, "{words:?}");
    }
    assert_eq!(
        choices(&["--iface=", "--public-ip=192.0.2.1"]),
        ["the default route"]
    );
}

/// By flanneld 0.28.9 with `--FLAG=` for each.
#[test]
fn every_flag_of_flannel_takes_an_empty_value_where_flannel_does() {
    for flag in [
        "etcd-prefix",
        "etcd-keyfile",
        "etcd-certfile",
        "etcd-cafile",
        "etcd-username",
        "etcd-password",
        "iface",
        "iface-regex",
        "iface-can-reach",
        "subnet-file",
        "public-ip",
        "public-ipv6",
        "kube-api-url",
        "kube-annotation-prefix",
        "kubeconfig-file",
        "healthz-ip",
        "net-config-path",
        "vmodule",
        "log_backtrace_at",
    ] {
        let taken = parse(&[&format!("--{flag}=")]);
        assert!(taken.is_ok(), "{flag}: {taken:?}");
    }
    for flag in [
        "subnet-lease-renew-margin",
        "ip-masq",
        "ip-masq-fully-random-disable",
        "kube-subnet-mgr",
        "healthz-port",
        "iptables-resync",
        "iptables-forward-rules",
        "ip-blackhole-route",
        "set-node-network-unavailable",
        "v",
    ] {
        let text = parse(&[&format!("--{flag}=")]).unwrap_err().to_string();
        assert!(text.contains(&format!("--{flag}")), "{text}");
    }
    let args = agent(&["--healthz-ip=", "--subnet-file="]);
    assert!(args.healthz_ip.is_unspecified() && !args.has_subnet_file());
    assert_eq!(args.without_effect().len(), 1);
}

#[test]
fn the_environment_is_asked_for_what_is_not_given() {
    let environment = [
        ("FLANNELD_PUBLIC_IP", "192.0.2.1"),
        ("FLANNELD_IFACE", "eth0,eth1"),
        ("FLANNELD_IP_MASQ", "true"),
        ("FLANNELD_ETCD_PREFIX", ""),
        ("FLANNELD_HEALTHZ_PORT", "many"),
        ("FLANNELD_V", "3"),
        ("FLANNELD_VERSION", "true"),
        ("FLANNELD_FAST_PATH", "off"),
    ];
    let (parsed, ignored) = read(&["-ip-masq=false"], &environment).unwrap();
    let args = parsed.agent;
    assert_eq!(args.public_ip, Some(Ipv4Addr::new(192, 0, 2, 1)));
    // Flannel does not split it either.
    assert_eq!(args.iface, ["eth0,eth1"]);
    assert!(!args.ip_masq);
    assert_eq!(args.etcd.etcd_prefix, "/coreos.com/network");
    assert_eq!(args.healthz_port, 0);
    assert_eq!(args.fast_path, FastPathChoice::Off);
    assert_eq!(
        parsed.log.filter(),
        "info,twill_agent=debug,twill_core=debug"
    );
    assert_eq!(ignored.len(), 1);
    assert!(
        ignored[0].starts_with("Failed to set flag FLANNELD from env: FLANNELD_HEALTHZ_PORT"),
        "{ignored:?}"
    );
}

/// Flannel has them as text, so that they get past its flags and end it later.
#[test]
fn an_address_or_expression_of_the_environment_that_cannot_be_is_no_start() {
    for (variable, value, right) in [
        ("FLANNELD_PUBLIC_IP", "bad", "as 192.0.2.1"),
        ("FLANNELD_IFACE_CAN_REACH", "192.0.2", "as 192.0.2.1"),
        ("FLANNELD_IFACE_REGEX", "eth(", "unclosed group"),
        ("FLANNELD_IFACE_REGEX", "eth(", "as ^eth"),
    ] {
        let error = read(&[], &[(variable, value)]).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{variable}");
        for part in [variable, value, right] {
            assert!(text.contains(part), "{text}");
        }
    }
    let given = read(&["-public-ip=192.0.2.1"], &[("FLANNELD_PUBLIC_IP", "bad")]);
    assert!(given.is_ok(), "{given:?}");
}

#[test]
fn a_password_is_shown_nowhere() {
    let args = agent(&["-etcd-username=u", "-etcd-password=hunter2"]);
    let shown = format!("{args:?}");
    assert!(
        shown.contains("redacted") && !shown.contains("hunter2"),
        "{shown}"
    );
    for words in [
        ["--lease-server=http://u:hunter2@192.0.2.1:7890"].as_slice(),
        &["--etcd-endpoints=http://192.0.2.1:2379,http://u:hunter2@192.0.2.1:2379"],
    ] {
        let shown = agent(words).check().unwrap_err().to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let (_, ignored) = read(&["-etcd-password=", "hunter2"], &[]).unwrap();
    assert!(!ignored.concat().contains("hunter2"), "{ignored:?}");
}

#[test]
fn the_margin_is_flannels() {
    for (minutes, right) in [("1", true), ("1439", true), ("0", false), ("1440", false)] {
        let args = agent(&["-subnet-lease-renew-margin", minutes]);
        assert_eq!(args.check().is_ok(), right, "{minutes}");
    }
    let error = agent(&["-subnet-lease-renew-margin=-1"])
        .check()
        .unwrap_err();
    let expected = "Invalid subnet-lease-renew-margin option, out of acceptable range";
    assert!(error.to_string().starts_with(expected), "{error}");
}

#[test]
fn what_has_no_effect_is_said() {
    let unused = agent(&[
        "-public-ipv6=2001:db8::1",
        "-kubeconfig-file=x",
        "-etcd-keyfile=k",
        "-etcd-username=u",
    ])
    .without_effect();
    assert_eq!(unused.len(), 4, "{unused:?}");
    assert_eq!(agent(&[]).without_effect(), Vec::<String>::new());
    let error = agent(&["-kube-subnet-mgr"]).check().unwrap_err();
    assert!(error.to_string().contains("--kube-subnet-mgr"), "{error}");
}

#[test]
fn an_etcd_without_tls_is_known() {
    for (words, plain) in [
        (["-etcd-endpoints=https://a,http://b"].as_slice(), true),
        (&["-etcd-endpoints=a:2379"], true),
        (&["-etcd-endpoints=https://a,https://b"], false),
        (&["-etcd-keyfile=k", "-etcd-certfile=c"], false),
        (&["-etcd-keyfile=k"], true),
    ] {
        assert_eq!(agent(words).etcd.is_plain(), plain, "{words:?}");
    }
}

#[test]
fn help_comes_in_groups() {
    let help = parse(&["-help"]).unwrap_err().to_string();
    for group in [
        "Underlay:",
        "Lease store: etcd:",
        "Rules and routes of the host:",
        "Fast path:",
    ] {
        assert!(help.contains(group), "{group}");
    }
    assert!(!help.contains("vmodule"));
}
