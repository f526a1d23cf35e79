//! Real CNI programs, to test our plugin beside: built from their modules, as Go's module proxy
//! serves them, into the cache.
//!
//! Debian's `containernetworking-plugins` wire the pods of all other tests; they are too old for
//! CNI 1.1.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::golang::{self, Go};
use crate::{console, places, process};

/// Tells tests where they are.
pub(crate) const VARIABLE: &str = "TWILL_CNI_REAL";

/// A module and what is built of it.
struct Module {
    name: &'static str,
    version: &'static str,
    /// The hash of its files, as `go.sum` of a module that uses it has it; those of the modules
    /// that it uses are in its own.
    sum: &'static str,
    /// Packages; each makes a program of its last name.
    programs: &'static [&'static str],
}

/// What is built. The second is the last version with a plugin `flannel` in it, from which
/// flannel's own descends; it knows IPv4 alone.
const MODULES: [Module; 3] = [
    Module {
        name: "github.com/containernetworking/plugins",
        version: "1.9.1",
        sum: "h1:8oU6WsIsU3bpnNZuvHp74a6cE1MJwbj2P7s4/yTUNlA=",
        programs: &[
            "./plugins/main/bridge",
            "./plugins/main/ptp",
            "./plugins/ipam/host-local",
            "./plugins/meta/portmap",
            "./plugins/meta/bandwidth",
            "./plugins/meta/tuning",
            "./plugins/meta/firewall",
        ],
    },
    Module {
        name: "github.com/containernetworking/plugins",
        version: "0.9.1",
        sum: "h1:FD1tADPls2EEi3flPc2OegIY1M9pUa9r2Quag7HMLV8=",
        programs: &["./plugins/meta/flannel"],
    },
    Module {
        name: "github.com/containernetworking/cni",
        version: "1.3.0",
        sum: "h1:v6EpN8RznAZj9765HhXQrtXgX+ECGebEYEmnuFjskwo=",
        programs: &["./cnitool"],
    },
];

/// Their folder; builds what is not there.
pub(crate) fn provide() -> Result<PathBuf> {
    let folder = folder(&places::cache()?);
    if is_whole(&folder) {
        return Ok(folder);
    }
    let go = Go::have()?;
    console::step("build CNI plugins and cnitool (1 min)");
    let begin = Instant::now();
    build(&go, &folder).context("build CNI plugins and cnitool")?;
    console::note(&format!("took {}", console::duration(begin.elapsed())));
    Ok(folder)
}

/// Named by the versions that are in it.
fn folder(cache: &Path) -> PathBuf {
    let [plugins, flannel, cni] = MODULES.each_ref().map(|module| module.version);
    cache.join(format!("cni-{plugins}-{flannel}-{cni}"))
}

fn is_whole(folder: &Path) -> bool {
    let mut programs = MODULES.iter().flat_map(|module| module.programs);
    programs.all(|program| process::is_executable(&folder.join(name(program))))
}

fn name(package: &str) -> &str {
    package.rsplit('/').next().unwrap_or(package)
}

fn build(go: &Go, folder: &Path) -> Result<()> {
    for module in &MODULES {
        let Module {
            name,
            version,
            sum,
            programs,
        } = module;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let download = go.download(&format!("{name}@v{version}"), folder)?;
        ensure!(
            download.sum == *sum,
            "{name} {version} has the hash {} instead of {sum}",
            download.sum
        );
        // Somebody else may build it at the same time.
        let source = folder.join(format!("source-{}", std::process::id()));
        golang::copy(&download.dir, &source)?;
        let partial = folder.join(format!("partial-{}", std::process::id()));
        fs::create_dir_all(&partial).with_context(|| format!("make {}", partial.display()))?;
        let mut command = go.command(&source);
        command
            .args(["build", "-ldflags", "-s -w", "-o"])
            .arg(&partial)
            .args(*programs)
            .env("CGO_ENABLED", "0");
        process::run(&mut command)?;
        for program in programs.iter().map(|program| self::name(program)) {
            fs::rename(partial.join(program), folder.join(program))
                .with_context(|| format!("make {program}"))?;
        }
        for made in [&source, &partial] {
            fs::remove_dir_all(made).with_context(|| format!("remove {}", made.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_named_by_all_that_is_in_it() {
        assert_eq!(
            folder(Path::new("/c")),
            Path::new("/c/cni-1.9.1-0.9.1-1.3.0")
        );
        assert!(!is_whole(Path::new("/nonexistent")));
        assert_eq!(name("./plugins/meta/flannel"), "flannel");
    }
}
