//! Flannel's own charts and manifests, to compare ours with: out of its modules, as Go's module
//! proxy serves them, into the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::golang::{self, Go};
use crate::{console, places};

/// Tells tests where they are: a folder for each release, with `chart` and `kube-flannel.yml`.
pub(crate) const VARIABLE: &str = "TWILL_FLANNEL_CHARTS";

const MODULE: &str = "github.com/flannel-io/flannel";
/// Releases, by what their charts brought, and the hashes of their files.
const RELEASES: [(&str, &str); 5] = [
    // image_cni; no healthz, no cniConf, no nodeSelector.
    ("0.25.7", "h1:gJiwuGL0g9U7iXGcYsqohnQ21zMaojq1g+mIasknDQU="),
    // cniConf, cniBinDir, skipCNIConfigInstallation.
    ("0.26.7", "h1:fG3xrErZfrCYQGtSAdZcPnp0+uBsZsWZmKAK77zC0ok="),
    // resources, nodeSelector; the last with image_cni that the proxy serves.
    ("0.27.4", "h1:/i1Bj6/wtBoHSJApQYhve7zK4kycDdFa8yyFDZnUiNE="),
    // flannel_cni.
    ("0.28.4", "h1:6O4wGCrCTl0Gf5BBpxfOJgOstkxZhEx3ZXzcKRopH8Q="),
    // healthz.
    ("0.28.9", "h1:9+P0Pc8hearNZZpW6/Cc/4vEOiXaqQonYayDDeyibqY="),
];

/// Their folder; fetches what is not there.
pub(crate) fn provide() -> Result<PathBuf> {
    let folder = places::cache()?.join("flannel-charts");
    let missing = |(version, _): &&(&str, &str)| !folder.join(version).is_dir();
    let missing: Vec<_> = RELEASES.iter().filter(missing).collect();
    if missing.is_empty() {
        return Ok(folder);
    }
    let go = Go::have()?;
    console::step("fetch flannel's charts, to compare ours with (1 min)");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    for (version, sum) in missing {
        take(&go, &folder, version, sum).with_context(|| format!("flannel {version}"))?;
    }
    Ok(folder)
}

fn take(go: &Go, folder: &Path, version: &str, sum: &str) -> Result<()> {
    let module = go.download(&format!("{MODULE}@v{version}"), folder)?;
    ensure!(
        module.sum == sum,
        "its hash is {} instead of {sum}",
        module.sum
    );
    // Somebody else may fetch it at the same time.
    let partial = folder.join(format!("{version}-partial-{}", std::process::id()));
    golang::copy(
        &module.dir.join("chart/kube-flannel"),
        &partial.join("chart"),
    )?;
    fs::copy(
        module.dir.join("Documentation/kube-flannel.yml"),
        partial.join("kube-flannel.yml"),
    )
    .context("copy the manifest")?;
    let place = folder.join(version);
    if fs::rename(&partial, &place).is_err() && place.is_dir() {
        fs::remove_dir_all(&partial).context("remove what somebody else has put there too")?;
    }
    Ok(())
}
