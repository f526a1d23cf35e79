//! For equal values our chart renders what flannel's renders, but for the differences that are
//! written here.

use regex::Regex;
use serde_json::Value;

use crate::difference::{Difference, differences};
use crate::helm::{RELEASES, available, flannels, ours, render};

/// A difference that is meant: place, what flannel has there and what Twill has, as expressions
/// for their JSON, `nothing` for none.
pub(crate) type Meant = (&'static str, &'static str, &'static str);

/// With all values at their defaults or set to the same.
pub(crate) const ALWAYS: [Meant; 11] = [
    // The daemon writes below its volumes alone.
    (
        r"\[kube-flannel\]\.securityContext\.readOnlyRootFilesystem$",
        "nothing",
        "true",
    ),
    (
        r"\[kube-flannel\]\.securityContext\.capabilities\.add$",
        r#"^\["NET_ADMIN","NET_RAW"\]$"#,
        r#"^\["BPF","PERFMON","SYS_ADMIN","NET_ADMIN","NET_RAW"\]$"#,
    ),
    (r"initContainers\[mount-bpffs\]$", "nothing", "privileged"),
    (
        r"\[kube-flannel\]\.volumeMounts\[(run-twill|state-twill|bpffs|sysctl-net)\]$",
        "nothing",
        "mountPath",
    ),
    (
        r"spec\.volumes\[(run-twill|state-twill|bpffs|sysctl-net)\]$",
        "nothing",
        "hostPath",
    ),
    // Waiting for a podCIDR is told by an Event.
    (
        r"^ClusterRole/flannel (events\.k8s\.io)?/events:(create|patch)$",
        "nothing",
        "true",
    ),
    // Flannel's chart grants more than flannel's manifest does, for the netpol container.
    (
        r"^ClusterRole/flannel /pods:(list|watch)$",
        "true",
        "nothing",
    ),
    (
        r"^ClusterRole/flannel /namespaces:(get|list|watch)$",
        "true",
        "nothing",
    ),
    // Whoever sets no image means another one.
    (
        r"\[(kube-flannel|install-cni)\]\.image$",
        "flannel(-io)?/flannel:v",
        "^\"localhost/twill:",
    ),
    (
        r"\[install-cni-plugin\]\.image$",
        "flannel(-io)?/flannel-cni-plugin:v",
        "^\"localhost/twill:",
    ),
    // A newer netpol.
    (
        r"\[kube-network-policies\]\.image$",
        "kube-network-policies:v0",
        "kube-network-policies:v1",
    ),
];

/// What flannel's chart had not, up to a release.
const OLDER: [(&str, Meant); 9] = [
    (
        "0.28.4",
        (
            r"\[install-cni\]\.command$",
            r#"^\["cp"\]$"#,
            r#"^\["/opt/bin/install-conf"\]$"#,
        ),
    ),
    (
        "0.28.4",
        (r"\[install-cni\]\.args$", r#"^\["-f","#, r#"^\["/etc"#),
    ),
    (
        "0.28.4",
        (
            r"\[kube-flannel\]\.command$",
            "",
            r#""--healthz-port=8081"\]$"#,
        ),
    ),
    (
        "0.28.4",
        (
            r"\[kube-flannel\]\.(ports|livenessProbe|readinessProbe)$",
            "nothing",
            "healthz",
        ),
    ),
    (
        "0.26.7",
        (
            r"\[kube-flannel\]\.env\[CONT_WHEN_CACHE_NOT_READY\]$",
            "nothing",
            "false",
        ),
    ),
    (
        "0.25.7",
        (
            r"\[kube-network-policies\]\.env$",
            "nothing",
            "MY_NODE_NAME",
        ),
    ),
    (
        "0.25.7",
        (
            r"\[kube-network-policies\]\.command$",
            "",
            "hostname-override",
        ),
    ),
    (
        "0.25.7",
        (
            r"^ClusterRole/flannel .*networkpolicies:(list|watch)$",
            "",
            "",
        ),
    ),
    ("0.25.7", (r"spec\.tolerations$", "", "NoExecute")),
];

/// Values that both charts have, since a release.
const VALUES: [(&str, &[&str]); 17] = [
    ("0.25.7", &[]),
    (
        "0.25.7",
        &[r#"podCidr="10.0.0.0/8""#, r#"podCidrv6="fd00::/48""#],
    ),
    ("0.25.7", &[r#"podCidr="""#, r#"podCidrv6="fd00::/48""#]),
    (
        "0.25.7",
        &[
            "flannel.backendPort=4789",
            "flannel.vni=4096",
            "flannel.GBP=true",
            "flannel.directRouting=true",
            "flannel.mtu=1400",
            r#"flannel.macPrefix="0E-2B""#,
        ],
    ),
    (
        "0.25.7",
        &[
            r#"flannel.backend="wireguard""#,
            "flannel.backendPort=51821",
            "flannel.backendPortv6=51822",
            r#"flannel.psk="x""#,
            "flannel.mtu=1380",
            "flannel.keepaliveInterval=25",
        ],
    ),
    (
        "0.25.7",
        &[r#"flannel.backend="udp""#, "flannel.backendPort=8285"],
    ),
    ("0.25.7", &[r#"flannel.backend="host-gw""#]),
    ("0.25.7", &["flannel.enableNFTables=true"]),
    (
        "0.25.7",
        &[r#"flannel.args=["--ip-masq","--kube-subnet-mgr","--iface=eth1"]"#],
    ),
    (
        "0.25.7",
        &[r#"flannel.tolerations=[{"operator":"Exists"}]"#],
    ),
    ("0.25.7", &[r#"global.imagePullSecrets=[{"name":"s"}]"#]),
    (
        "0.25.7",
        &[r#"flannel.image={"repository":"r/flannel/flannel","tag":"v1"}"#],
    ),
    (
        "0.26.7",
        &[
            r#"flannel.cniBinDir="/usr/libexec/cni""#,
            r#"flannel.cniConfDir="/etc/x""#,
            r#"flannel.cniConf="{}""#,
        ],
    ),
    ("0.26.7", &["flannel.skipCNIConfigInstallation=true"]),
    (
        "0.27.4",
        &[
            r#"flannel.nodeSelector={"a":"b"}"#,
            r#"flannel.resources={"limits":{"memory":"100Mi"}}"#,
        ],
    ),
    (
        "0.28.4",
        &[
            "netpol.enabled=true",
            r#"netpol.image.tag="v9""#,
            r#"flannel.flannel_cni.image={"repository":"r","tag":"t"}"#,
        ],
    ),
    (
        "0.28.9",
        &[
            "flannel.healthz.port=9000",
            "flannel.healthz.livenessProbe.periodSeconds=5",
        ],
    ),
];

/// The differences that nobody meant.
pub(crate) fn unmeant(found: Vec<Difference>, meant: &[Meant]) -> Vec<String> {
    let meant: Vec<_> = meant
        .iter()
        .map(|&(place, flannel, twill)| [place, flannel, twill].map(|it| Regex::new(it).expect(it)))
        .collect();
    let text = |value: &Option<Value>| {
        let text = value.as_ref().map(Value::to_string);
        text.unwrap_or_else(|| "nothing".to_owned())
    };
    found
        .into_iter()
        .filter(|it| {
            let texts = [it.place.clone(), text(&it.flannel), text(&it.twill)];
            !meant.iter().any(|expressions| {
                let mut pairs = expressions.iter().zip(&texts);
                pairs.all(|(expression, text)| expression.is_match(text))
            })
        })
        .map(|it| it.to_string())
        .collect()
}

/// What is meant beside a release.
fn meant(release: &str) -> Vec<Meant> {
    let older = OLDER.iter().filter(|(until, _)| release <= *until);
    ALWAYS
        .into_iter()
        .chain(older.map(|(_, meant)| *meant))
        .collect()
}

#[test]
fn equal_values_render_equal_objects() {
    if !available() {
        return;
    }
    let mut complaints = Vec::new();
    for (since, values) in VALUES {
        let twill = render(&ours(), values).expect("our chart");
        for release in RELEASES.into_iter().filter(|release| *release >= since) {
            let chart = flannels(release).join("chart");
            let flannel = render(&chart, values).expect("flannel's chart");
            let unmeant = unmeant(differences(&flannel, &twill), &meant(release));
            complaints.extend(
                unmeant
                    .iter()
                    .map(|it| format!("{release} {values:?}: {it}")),
            );
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Without capabilities of our own the pod may do what flannel's may, and no more.
#[test]
fn without_bpf_the_rights_are_flannels() {
    if !available() {
        return;
    }
    let flannel = render(&flannels("0.28.9").join("chart"), &[]).expect("flannel's chart");
    let twill = render(&ours(), &[r#"twill.capabilities="none""#]).expect("our chart");
    let found = differences(&flannel, &twill);
    let rights = ["securityContext", "bpffs"];
    let unexpected: Vec<_> = found
        .iter()
        .filter(|it| rights.iter().any(|word| it.place.contains(word)))
        .filter(|it| !it.place.ends_with("readOnlyRootFilesystem"))
        .map(ToString::to_string)
        .collect();
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
}

/// The one case in which flannel's chart writes what is no JSON.
#[test]
fn a_wireguard_mode_is_quoted() {
    if !available() {
        return;
    }
    let values = [
        r#"flannel.backend="wireguard""#,
        r#"flannel.tunnelMode="auto""#,
    ];
    let conf = |chart: &std::path::Path| {
        let objects = render(chart, &values).expect("a chart");
        let text = crate::helm::at(
            &objects,
            "ConfigMap/kube-flannel-cfg",
            "/data/net-conf.json",
        );
        text.as_str().expect("text").to_owned()
    };
    assert!(serde_json::from_str::<Value>(&conf(&flannels("0.28.9").join("chart"))).is_err());
    let ours: Value = serde_json::from_str(&conf(&ours())).expect("JSON");
    assert_eq!(ours["Backend"]["Mode"], "auto");
}

/// And one in which it writes no whole number.
#[test]
fn a_large_vni_is_a_whole_number() {
    if !available() {
        return;
    }
    let values = ["flannel.vni=16777215"];
    let conf = |chart: &std::path::Path| {
        let objects = render(chart, &values).expect("a chart");
        let text = crate::helm::at(
            &objects,
            "ConfigMap/kube-flannel-cfg",
            "/data/net-conf.json",
        );
        text.as_str().expect("text").to_owned()
    };
    assert!(conf(&flannels("0.28.9").join("chart")).contains(r#""VNI": 1.6777215e+07"#));
    assert!(conf(&ours()).contains(r#""VNI": 16777215,"#));
}

/// Told no, Twill does not look for itself; not told, it does.
#[test]
fn rules_by_iptables_can_be_asked_for() {
    if !available() {
        return;
    }
    for (values, expected) in [
        (&[][..], None),
        (&["flannel.enableNFTables=false"], Some(false)),
        (&["flannel.enableNFTables=true"], Some(true)),
    ] {
        let objects = render(&ours(), values).expect("our chart");
        let text = crate::helm::at(
            &objects,
            "ConfigMap/kube-flannel-cfg",
            "/data/net-conf.json",
        );
        let conf: Value = serde_json::from_str(text.as_str().expect("text")).expect("JSON");
        assert_eq!(
            conf.get("EnableNFTables").and_then(Value::as_bool),
            expected
        );
    }
}
