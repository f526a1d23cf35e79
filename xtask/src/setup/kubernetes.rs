//! A real Kubernetes, to test on: built from its modules, as Go's module proxy serves them, into
//! the cache. What runs of it where is `tests/testbed/src/kubernetes`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::golang::{BuildCache, Go};
use super::plan::Missing;
use super::tools::{self, Tool};
use crate::{console, places, process};

/// Tell tests where the programs are.
pub(crate) const VARIABLES: [&str; 3] = ["TWILL_KUBE", "TWILL_CONTAINERD", "TWILL_RUNC"];

/// Kubernetes itself; etcd 3.7.0 comes with it.
const KUBE: Module = Module {
    name: "k8s.io/kubernetes",
    version: "1.37.2",
    sum: "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE=",
};
/// What runs containers for the kubelet.
const CONTAINERD: Module = Module {
    name: "github.com/containerd/containerd/v2",
    version: "2.4.2",
    sum: "h1:p6Qg+xbEz8lvwdhHDx0U469xENvp4LgGBx+E7djXkGw=",
};
/// What starts a container for containerd.
const RUNC: Module = Module {
    name: "github.com/opencontainers/runc",
    version: "1.5.3",
    sum: "h1:y3GUIW7J0Gxd+tCFfWR6L1YDnhHiNR1BGRx1J50+VnA=",
};

/// The module that `kube` is built from. Kubernetes cannot be required as it is: its own `go.mod`
/// points the modules that it is made of at folders that its archive lacks. Ours names them by
/// version, and its `go.sum` has the hashes of all that is used.
const SOURCE: [(&str, &str); 3] = [
    ("go.mod", include_str!("kube/go.mod")),
    ("go.sum", include_str!("kube/go.sum")),
    ("main.go", include_str!("kube/main.go")),
];
/// The names of the one program.
const NAMES: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];
/// Pods' first process, which is C.
const PAUSE: &str = "build/pause/linux/pause.c";

/// What runc's part that enters namespaces is built with.
const SECCOMP: [&Tool; 3] = [
    &tools::file("/usr/include/seccomp.h", "libseccomp-dev"),
    &tools::command("pkg-config", "pkg-config"),
    &tools::command("gcc", "gcc"),
];

/// A module of Go, and the hash of its files as `go.sum` has it.
struct Module {
    name: &'static str,
    version: &'static str,
    sum: &'static str,
}

impl Module {
    /// Its files, once their hash was compared.
    fn source(&self, go: &Go, folder: &Path) -> Result<PathBuf> {
        let Self { name, version, sum } = self;
        let download = go.download(&format!("{name}@v{version}"), folder)?;
        ensure!(
            download.sum == *sum,
            "{name} {version} has the hash {} instead of {sum}",
            download.sum
        );
        Ok(download.dir)
    }

    fn folder(&self, cache: &Path, label: &str) -> PathBuf {
        cache.join(format!("{label}-{}", self.version))
    }
}

/// What is built apart from the rest.
struct Part {
    label: &'static str,
    lasts: &'static str,
    module: &'static Module,
    /// Programs that are there once it is whole.
    programs: &'static [&'static str],
    /// Puts them into the folder; the first argument is the module's source.
    build: fn(&Builder<'_>, &Path) -> Result<()>,
}

const PARTS: [Part; 3] = [
    Part {
        label: "kube",
        lasts: "10 min",
        module: &KUBE,
        programs: &["pause", "kube", "kubelet"],
        build: kube,
    },
    Part {
        label: "containerd",
        lasts: "2 min",
        module: &CONTAINERD,
        programs: &["containerd", "containerd-shim-runc-v2", "ctr"],
        build: containerd,
    },
    Part {
        label: "runc",
        lasts: "1 min",
        module: &RUNC,
        programs: &["runc"],
        build: runc,
    },
];

/// The folders of the programs, in the order of [`VARIABLES`]; builds what is not there.
pub(crate) fn provide() -> Result<[PathBuf; 3]> {
    let cache = places::cache()?;
    let folders = PARTS
        .each_ref()
        .map(|part| part.module.folder(&cache, part.label));
    if (PARTS.iter().zip(&folders)).all(|(part, folder)| part.is_whole(folder)) {
        return Ok(folders);
    }
    let go = Go::have()?;
    // They share most of what they are built of. Somebody else may have built some of them when
    // it is free.
    let built = BuildCache::new(&cache)?;
    for (part, folder) in PARTS.iter().zip(&folders) {
        if part.is_whole(folder) {
            continue;
        }
        let title = format!("build {} {}", part.label, part.module.version);
        console::step(&format!("{title} ({})", part.lasts));
        let begin = Instant::now();
        part.provide(&go, &built, folder).context(title)?;
        console::note(&format!("took {}", console::duration(begin.elapsed())));
    }
    built.leave()?;
    Ok(folders)
}

impl Part {
    fn is_whole(&self, folder: &Path) -> bool {
        let mut programs = self.programs.iter();
        programs.all(|program| process::is_executable(&folder.join(program)))
    }

    fn provide(&self, go: &Go, cache: &BuildCache, folder: &Path) -> Result<()> {
        // Somebody else may build it at the same time.
        let partial = folder.join(format!("partial-{}", std::process::id()));
        fs::create_dir_all(&partial).with_context(|| format!("make {}", partial.display()))?;
        let source = self.module.source(go, &partial)?;
        let builder = Builder {
            go,
            cache,
            module: self.module,
            into: partial.join("programs"),
            work: partial.join("work"),
        };
        for made in [&builder.into, &builder.work] {
            fs::create_dir_all(made).with_context(|| format!("make {}", made.display()))?;
        }
        (self.build)(&builder, &source)?;
        let programs = fs::read_dir(&builder.into).context("list what was built")?;
        for program in programs {
            let program = program.context("list what was built")?;
            let to = folder.join(program.file_name());
            fs::rename(program.path(), &to).with_context(|| format!("make {}", to.display()))?;
        }
        fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
        ensure!(
            self.is_whole(folder),
            "{} lacks one of {:?}",
            folder.display(),
            self.programs
        );
        Ok(())
    }
}

/// What a part is built with.
struct Builder<'a> {
    go: &'a Go,
    cache: &'a BuildCache,
    module: &'static Module,
    /// Where the programs go.
    into: PathBuf,
    /// For whatever else is written.
    work: PathBuf,
}

impl Builder<'_> {
    fn go(&self) -> Command {
        let mut command = self.go.command(&self.work);
        self.cache.describe(&mut command);
        command
    }

    /// Programs of the module, which has no replacements.
    fn install(&self, flags: &str, packages: &[&str], more: &[&str]) -> Result<()> {
        let Module { name, version, .. } = self.module;
        let mut command = self.go();
        command
            .args(["install", "-trimpath", "-ldflags"])
            .arg(format!("-s -w {flags}"))
            .args(more)
            .args(
                packages
                    .iter()
                    .map(|package| format!("{name}{package}@v{version}")),
            )
            .env("GOBIN", &self.into)
            .env("CGO_ENABLED", if more.is_empty() { "0" } else { "1" });
        process::run(&mut command)
    }
}

fn kube(builder: &Builder<'_>, source: &Path) -> Result<()> {
    for (name, text) in SOURCE {
        let path = builder.work.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let program = builder.into.join("kube");
    let mut command = builder.go();
    command
        .args(["build", "-trimpath", "-ldflags", &version_flags()])
        .arg("-o")
        .arg(&program)
        .arg(".")
        // Every hash is known: one that is not is an error.
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("CGO_ENABLED", "0");
    process::run(&mut command)?;
    for name in NAMES {
        symlink("kube", builder.into.join(name)).with_context(|| format!("make {name}"))?;
    }
    let mut command = Command::new("gcc");
    command
        .args(["-Os", "-static", "-s"])
        .arg(format!("-DVERSION={}", KUBE.version))
        .arg("-o")
        .arg(builder.into.join("pause"))
        .arg(source.join(PAUSE));
    process::run(&mut command)
}

/// What makes it say its version, which kubelets and the API server compare.
fn version_flags() -> String {
    let version = KUBE.version;
    let mut numbers = version.split('.');
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    let packages = [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ];
    let flags = packages.map(|package| {
        format!(
            " -X {package}.gitVersion=v{version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
        )
    });
    format!("-s -w{}", flags.concat())
}

fn containerd(builder: &Builder<'_>, _: &Path) -> Result<()> {
    let Module { name, version, .. } = builder.module;
    let flag = format!("-X {name}/version.Version=v{version}");
    let packages = [
        "/cmd/containerd",
        "/cmd/containerd-shim-runc-v2",
        "/cmd/ctr",
    ];
    builder.install(&flag, &packages, &[])
}

fn runc(builder: &Builder<'_>, _: &Path) -> Result<()> {
    let missing: Vec<&Tool> = SECCOMP
        .into_iter()
        .filter(|tool| !tool.is_there())
        .collect();
    if !missing.is_empty() {
        super::install(&Missing {
            tools: missing,
            ..Missing::default()
        })?;
    }
    let flag = format!("-X main.version={}", builder.module.version);
    builder.install(&flag, &[""], &["-tags=seccomp"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_named_by_its_version() {
        let folder = KUBE.folder(Path::new("/c"), "kube");
        assert_eq!(folder, Path::new("/c/kube-1.37.2"));
        assert!(PARTS.iter().all(|part| !part.is_whole(&folder)));
    }

    #[test]
    fn the_module_asks_for_the_version_that_is_built() {
        let [(_, module), (_, sums), _] = SOURCE;
        let Module { name, version, sum } = KUBE;
        assert!(module.contains(&format!("require {name} v{version}\n")));
        assert!(sums.contains(&format!("{name} v{version} {sum}\n")));
        // What it is made of has the same version, but for its first number.
        let part = version.split_once('.').map_or("", |(_, rest)| rest);
        let replaced = module.lines().filter(|line| line.contains(" => "));
        for line in replaced {
            assert!(line.ends_with(&format!(" v0.{part}")), "{line}");
        }
        assert!(version_flags().contains("gitMinor=37 "));
    }
}
