//! Monitors and the dashboard.

use std::fs;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

use crate::helm::{at, available, ours, render};

const ALL: [&str; 4] = [
    "twill.metrics.podMonitor.enabled=true",
    r#"twill.metrics.podMonitor.labels={"release":"prometheus"}"#,
    "twill.metrics.serviceMonitor.enabled=true",
    "twill.metrics.dashboard.enabled=true",
];

#[test]
fn monitors_find_the_daemons() {
    if !available() {
        return;
    }
    assert!(
        !render(&ours(), &[])
            .expect("our chart")
            .keys()
            .any(|it| it.contains("Monitor"))
    );
    let objects = render(&ours(), &ALL).expect("our chart");
    let pods = at(
        &objects,
        "DaemonSet/kube-flannel-ds",
        "/spec/template/metadata/labels",
    );
    for pointer in [
        ("PodMonitor/twill", "/spec/selector/matchLabels"),
        ("Service/twill-metrics", "/spec/selector"),
    ] {
        let selector = at(&objects, pointer.0, pointer.1)
            .as_object()
            .expect("labels");
        assert!(
            selector
                .iter()
                .all(|(name, value)| pods.get(name) == Some(value)),
            "{pointer:?}"
        );
    }
    let service = at(&objects, "Service/twill-metrics", "/metadata/labels");
    let selector = at(
        &objects,
        "ServiceMonitor/twill",
        "/spec/selector/matchLabels",
    );
    assert_eq!(service, selector);
    assert_eq!(
        at(&objects, "PodMonitor/twill", "/metadata/labels/release"),
        "prometheus"
    );
    for (monitor, pointer) in [
        ("PodMonitor/twill", "/spec/podMetricsEndpoints/0"),
        ("ServiceMonitor/twill", "/spec/endpoints/0"),
    ] {
        let endpoint = at(&objects, monitor, pointer);
        assert_eq!(
            (&endpoint["port"], &endpoint["path"]),
            (&"healthz".into(), &"/metrics".into())
        );
    }
}

/// The dashboard asks for metrics that there are.
#[test]
fn the_dashboard_asks_for_what_there_is() {
    if !available() {
        return;
    }
    let objects = render(&ours(), &ALL).expect("our chart");
    let text = at(&objects, "ConfigMap/twill-dashboard", "/data/twill.json");
    let text = text.as_str().expect("text");
    assert!(serde_json::from_str::<Value>(text).is_ok());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../agent/src/run/metrics");
    let mut source = String::new();
    for entry in fs::read_dir(folder).expect("the metrics") {
        source += &fs::read_to_string(entry.expect("the metrics").path()).expect("the metrics");
    }
    let metrics = Regex::new(r"\btwill_([a-z_]+)").expect("an expression");
    let mut count = 0;
    for metric in metrics.captures_iter(text) {
        let name = metric[1].trim_end_matches("_total");
        assert!(source.contains(&format!("\"{name}\"")), "no metric {name}");
        count += 1;
    }
    assert!(count > 10, "{count}");
}
