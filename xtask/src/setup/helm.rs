//! Helm, to render the chart: built from its module, as Go's module proxy serves it, into the
//! cache.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::golang::{self, Go};
use crate::{console, places, process};

/// Tells tests where it is.
pub(crate) const VARIABLE: &str = "TWILL_HELM";

const VERSION: &str = "4.3.1";
const MODULE: &str = "helm.sh/helm/v4";
/// The hash of its files, as `go.sum` of a module that uses it has it; those of the modules that
/// it uses are in its own.
const SUM: &str = "h1:UndCoLe9UPmNoL7IvWzaUXveL7T5t/ijoorEmgJdI9g=";

/// The one that was built; builds it if it was not.
pub(crate) fn provide() -> Result<PathBuf> {
    let folder = places::cache()?.join(format!("helm-{VERSION}"));
    let program = folder.join("helm");
    if process::is_executable(&program) {
        return Ok(program);
    }
    let go = Go::have()?;
    console::step(&format!("build Helm {VERSION} (2 to 5 min)"));
    let begin = Instant::now();
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let module = go.download(&format!("{MODULE}@v{VERSION}"), &folder)?;
    ensure!(
        module.sum == SUM,
        "{MODULE} {VERSION} has the hash {} instead of {SUM}",
        module.sum
    );
    // Somebody else may build it at the same time.
    let source = folder.join(format!("source-{}", std::process::id()));
    golang::copy(&module.dir, &source)?;
    let partial = source.join("helm.partial");
    let mut command = go.command(&source);
    command
        .args(["build", "-trimpath", "-ldflags"])
        .arg(format!(
            "-s -w -X {MODULE}/internal/version.version=v{VERSION}"
        ))
        .arg("-o")
        .arg(&partial)
        .arg("./cmd/helm")
        .env("CGO_ENABLED", "0");
    process::run(&mut command).with_context(|| format!("build Helm {VERSION}"))?;
    fs::rename(&partial, &program).with_context(|| format!("make {}", program.display()))?;
    fs::remove_dir_all(&source).with_context(|| format!("remove {}", source.display()))?;
    console::note(&format!("took {}", console::duration(begin.elapsed())));
    Ok(program)
}
