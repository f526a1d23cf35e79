//! Values that cannot be are refused, with the value's name.

use crate::helm::{available, ours, render};

#[test]
fn what_cannot_be_is_refused_by_name() {
    if !available() {
        return;
    }
    for (values, words) in [
        (&[r#"twill.fastpath="direct""#][..], &["fastpath"][..]),
        (&[r#"twill.fastPath="fast""#], &["fastPath"]),
        (&[r#"twill.capabilities="all""#], &["capabilities"]),
        (&[r#"twill.exclude=["fd00::1"]"#], &["exclude"]),
        (&["twill.maxVteps=0"], &["maxVteps"]),
        (&[r#"twill.cniPlugins.names=["calico"]"#], &["names"]),
        (&[r#"podCidr="10.244.0.0""#], &["podCidr"]),
        (&[r#"flannel.backend="vxlans""#], &["backend"]),
        (&[r#"flannel.vni="one""#], &["vni"]),
        (
            &[
                "flannel.healthz.port=0",
                "twill.metrics.podMonitor.enabled=true",
            ],
            &["twill.metrics", "flannel.healthz.port"],
        ),
        (
            &["twill.cniPlugins.install=true", "twill.cniPlugins.names=[]"],
            &["twill.cniPlugins.names"],
        ),
    ] {
        let why = render(&ours(), values).expect_err(&format!("{values:?}"));
        for word in words {
            assert!(why.contains(word), "{values:?}: {why}");
        }
    }
}
