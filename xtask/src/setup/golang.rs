//! Go, for what is built from Go modules: the one that is here, or, where that one is too old
//! to fetch a newer one by itself, a newer one that it fetches as a module.

use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::plan::Missing;
use super::tools::{self, Tool};
use crate::{console, process};

/// Where a Go is that is not on `PATH`: upstream's folder, then Debian's.
const FOLDERS: [&str; 2] = ["/usr/local/go/bin", "/usr/lib/go/bin"];
/// The first that fetches what a module asks for by itself (Go 1.21's `GOTOOLCHAIN`).
const FETCHES: (u32, u32) = (1, 21);
/// The toolchains as a module, which Go's module proxy serves as any other.
const TOOLCHAIN: &str = "golang.org/toolchain";
/// What an older Go fetches: the version that flannel's `go.mod` asks for.
const FETCHED: &str = "1.25.9";

/// What to install where there is no Go at all.
const TOOL: &Tool = &tools::command("go", "golang-go");

/// A Go that can build modules of today.
pub(super) struct Go {
    program: PathBuf,
}

impl Go {
    /// The newest that is here. `None` if there is none; an old one fetches a newer one.
    pub(super) fn find() -> Result<Option<Self>> {
        let Some((version, program)) = here().into_iter().max() else {
            return Ok(None);
        };
        let program = if version < FETCHES {
            let (major, minor) = version;
            console::step(&format!("Go {major}.{minor} fetches Go {FETCHED} (1 min)"));
            fetch(&program)?
        } else {
            program
        };
        Ok(Some(Self { program }))
    }

    /// As [`Self::find`]; installs one where there is none.
    pub(super) fn have() -> Result<Self> {
        if let Some(go) = Self::find()? {
            return Ok(go);
        }
        super::install(&Missing {
            tools: vec![TOOL],
            ..Missing::default()
        })?;
        Self::find()?.context("there is still no Go")
    }

    /// `go` in this folder; arguments follow.
    pub(super) fn command(&self, folder: &Path) -> Command {
        let mut command = plain(&self.program, folder);
        // Some distributions turn the fetching of newer toolchains off.
        command.env("GOTOOLCHAIN", "auto");
        command
    }

    /// What the module proxy serves of a module, unpacked.
    pub(super) fn download(&self, module: &str, folder: &Path) -> Result<Download> {
        download(self.command(folder), module)
    }
}

/// What Go has compiled, for as long as something big is built: Kubernetes' is 8 GiB, of use to
/// nothing else once its programs are there. One who has set `GOCACHE` keeps it.
pub(super) struct BuildCache {
    folder: Option<PathBuf>,
    /// Held: nobody else removes it meanwhile.
    _lock: File,
}

impl BuildCache {
    /// One in the cache; what an aborted run left there is used. Waits while somebody else has it.
    pub(super) fn new(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("make {}", cache.display()))?;
        let path = cache.join("go-build.lock");
        let lock = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        lock.lock()
            .with_context(|| format!("lock {}", path.display()))?;
        let kept = env::var_os("GOCACHE").is_some_and(|value| !value.is_empty());
        Ok(Self {
            folder: (!kept).then(|| cache.join("go-build")),
            _lock: lock,
        })
    }

    /// Has `go` use it.
    pub(super) fn describe(&self, command: &mut Command) {
        if let Some(folder) = &self.folder {
            command.env("GOCACHE", folder);
        }
    }

    /// Removes it.
    pub(super) fn leave(self) -> Result<()> {
        let Some(folder) = self.folder else {
            return Ok(());
        };
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", folder.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// A module as `go mod download -json` tells of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Download {
    /// Its files, read-only.
    pub(super) dir: PathBuf,
    /// The hash of its files, as in `go.sum`.
    pub(super) sum: String,
}

/// Copies a folder of read-only files, to change some of them.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to)
                .and_then(|_| fs::set_permissions(&to, fs::Permissions::from_mode(0o644)))
                .with_context(|| format!("copy {}", from.display()))?;
        }
    }
    Ok(())
}

fn download(mut go: Command, module: &str) -> Result<Download> {
    let text = process::stdout(go.args(["mod", "download", "-json", module]))?;
    serde_json::from_str(&text).with_context(|| format!("go printed {text:?}"))
}

/// Every Go that is here, with its version.
fn here() -> Vec<((u32, u32), PathBuf)> {
    let folders = FOLDERS.map(|folder| Path::new(folder).join("go"));
    let programs = process::find("go").into_iter().chain(folders);
    programs
        .filter(|program| process::is_executable(program))
        .filter_map(|program| {
            let mut command = plain(&program, Path::new("/"));
            command.arg("version").env("GOTOOLCHAIN", "local");
            Some((version(&process::probe(&mut command)?)?, program))
        })
        .collect()
}

/// Reads `go version go1.25.9 linux/amd64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let word = text.strip_prefix("go version go")?;
    // As in go1.26rc1 or go1.19.8.
    let mut numbers = word.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `go` without settings of whoever runs this, but for proxy and cache.
fn plain(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env("GO111MODULE", "on")
        .env("GOFLAGS", "-mod=mod -buildvcs=false")
        .env("GOWORK", "off")
        .env_remove("GOROOT");
    command
}

/// Fetches a newer Go by an old one, and gives its program.
fn fetch(old: &Path) -> Result<PathBuf> {
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let module = format!("{TOOLCHAIN}@v0.0.1-go{FETCHED}.linux-{arch}");
    let mut go = plain(old, &env::temp_dir());
    go.env_remove("GOFLAGS");
    let Download { dir, .. } = download(go, &module)?;
    // As newer ones do it: the archive of a module has neither programs nor a second go.mod.
    // See cmd/go/internal/toolchain/select.go, Go 1.25.
    unpacked(&dir)?;
    Ok(dir.join("bin/go"))
}

fn unpacked(dir: &Path) -> Result<()> {
    for folder in ["bin", "pkg/tool"] {
        each_file(&dir.join(folder), &mut |file| {
            fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        })?;
    }
    each_file(&dir.join("src"), &mut |file| {
        if file.file_name().is_none_or(|name| name != "_go.mod") {
            return Ok(());
        }
        let Some(folder) = file.parent() else {
            return Ok(());
        };
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        fs::copy(file, folder.join("go.mod")).map(drop)
    })
}

/// Calls `act` with each file below a folder.
fn each_file(folder: &Path, act: &mut dyn FnMut(&Path) -> std::io::Result<()>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    // All of them before the first change: `act` may add files.
    let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            each_file(&path, act)?;
        } else {
            act(&path).with_context(|| format!("prepare {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read() {
        for (text, expected) in [
            ("go version go1.25.9 linux/amd64\n", Some((1, 25))),
            ("go version go1.19.8 linux/arm64", Some((1, 19))),
            ("go version go1.26rc1 linux/amd64", Some((1, 26))),
            ("go version devel", None),
            ("go1.25", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
    }

    #[test]
    fn a_toolchain_of_the_proxy_becomes_one_that_runs() {
        let root = env::temp_dir().join(format!("twill-golang-{}", std::process::id()));
        for folder in ["bin", "pkg/tool/linux_amd64", "src/cmd"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["bin/go", "pkg/tool/linux_amd64/link", "src/cmd/_go.mod"] {
            fs::write(root.join(file), file).unwrap();
        }
        unpacked(&root).unwrap();
        assert!(process::is_executable(&root.join("bin/go")));
        assert!(process::is_executable(
            &root.join("pkg/tool/linux_amd64/link")
        ));
        let copied = fs::read_to_string(root.join("src/cmd/go.mod")).unwrap();
        assert_eq!(copied, "src/cmd/_go.mod");
        fs::remove_dir_all(&root).unwrap();
    }
}
