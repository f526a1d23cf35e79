//! `helm upgrade --reuse-values` puts the values of a release of flannel's chart in the place of
//! ours.

use crate::helm::{RELEASES, available, daemon, notes, ours, pod, render, with_values_of};

#[test]
fn values_of_every_release_of_flannel_render() {
    if !available() {
        return;
    }
    for release in RELEASES {
        let chart = with_values_of(release);
        let objects = render(chart.path(), &[]).unwrap_or_else(|why| panic!("{release}: {why}"));
        let daemon = daemon(&objects);
        assert_eq!(
            daemon["resources"]["requests"]["memory"], "50Mi",
            "{release}"
        );
        let conf = crate::helm::at(
            &objects,
            "ConfigMap/kube-flannel-cfg",
            "/data/cni-conf.json",
        );
        assert!(
            conf.as_str().is_some_and(|it| it.contains("portmap")),
            "{release}"
        );
        let capabilities = daemon["securityContext"]["capabilities"]["add"].to_string();
        assert!(capabilities.contains("BPF"), "{release}: {capabilities}");
        // It is flannel's image then, and the person is told.
        assert!(
            daemon["image"].to_string().contains("/flannel:v"),
            "{release}"
        );
        let notes = notes(chart.path(), &[]);
        assert!(
            notes.contains("--reset-then-reuse-values"),
            "{release}: {notes}"
        );
    }
}

#[test]
fn the_former_name_of_the_cni_image_is_used_and_said() {
    if !available() {
        return;
    }
    let values = [r#"flannel.image_cni={"repository":"mirror/flannel-cni-plugin","tag":"v1"}"#];
    let objects = render(&ours(), &values).expect("our chart");
    let image = &crate::helm::named(&pod(&objects)["initContainers"], "install-cni-plugin")
        .expect("the container")["image"];
    assert_eq!(image, "mirror/flannel-cni-plugin:v1");
    let told = notes(&ours(), &values);
    assert!(told.contains("WARNING: flannel.image_cni"), "{told}");
    assert!(!notes(&ours(), &[]).contains("WARNING"));
}

/// `helm upgrade` keeps what was set by hand, and with it a flannel.
#[test]
fn another_image_than_twills_is_said() {
    if !available() {
        return;
    }
    let values = [r#"flannel.image={"repository":"docker.io/flannel/flannel","tag":"v0.28.9"}"#];
    let told = notes(&ours(), &values);
    assert!(told.contains("does not look like Twill"), "{told}");
}
