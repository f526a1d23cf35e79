//! A container without a container engine: namespaces, a read-only root, a bounding set.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use twill_testbed::netns::Namespace;

/// What flannel's manifest grants.
pub(crate) const FLANNELS: [&str; 2] = ["NET_ADMIN", "NET_RAW"];

/// Mounts what a runtime mounts, and runs a program in it. Arguments: the root, the capabilities,
/// mounts as `FROM:TO`, `--`, the program.
const ENTER: &str = r#"
set -e
root=$1 capabilities=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/dev"
mkdir "$root/dev/shm"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/urandom" c 1 9
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
while [ "$1" != -- ]; do
    mkdir -p "$root${1#*:}"
    case $1 in
    bpf:*) mount -t bpf bpf "$root${1#*:}" ;;
    *) mount --rbind "${1%%:*}" "$root${1#*:}" ;;
    esac
    shift
done
shift
mount -o remount,ro,bind "$root"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin setpriv --bounding-set="$capabilities" \
    --inh-caps=-all --no-new-privs unshare --root="$root" --wd=/ "$@"
"#;

/// The image's archive.
pub(crate) fn archive() -> PathBuf {
    let value = std::env::var_os("TWILL_IMAGE").filter(|value| !value.is_empty());
    value
        .expect("TWILL_IMAGE is not set: run `cargo xtask test image`")
        .into()
}

/// The image, unpacked, and what a pod has beside it.
pub(crate) struct Container {
    root: TempDir,
    capabilities: Vec<String>,
    mounts: Vec<(PathBuf, String)>,
    pub(crate) namespace: Namespace,
}

impl Container {
    /// With these capabilities, by their names in manifests.
    pub(crate) fn new(label: &str, capabilities: &[&str]) -> Result<Self> {
        let root = tempfile::tempdir().context("a folder for the image")?;
        let layer = layer()?;
        let script = r#"tar -xOf "$0" "$1" | tar -xz -C "$2""#;
        let status = Command::new("sh")
            .args(["-c", script])
            .arg(archive())
            .arg(layer)
            .arg(root.path())
            .status()
            .context("start tar")?;
        ensure!(status.success(), "unpack the image: {status}");
        Ok(Self {
            root,
            capabilities: capabilities.iter().map(|&it| it.to_owned()).collect(),
            mounts: Vec::new(),
            namespace: Namespace::new(label)?,
        })
    }

    /// A file of the image.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    /// Mounts a folder of the host; `bpf` is a BPF file system of its own.
    pub(crate) fn mount(&mut self, from: &Path, to: &str) {
        self.mounts.push((from.to_owned(), to.to_owned()));
    }

    /// A program in it; start it in [`Self::namespace`].
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Command {
        let granted = self.capabilities.iter().map(|it| it.to_lowercase());
        // What this harness itself needs to get in.
        let harness = ["-all".to_owned(), "+sys_chroot".to_owned()];
        let granted = granted.map(|it| format!("+{it}"));
        let bounding: Vec<_> = harness.into_iter().chain(granted).collect();
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--propagation=private",
            ])
            .args(["sh", "-c", ENTER, "container"])
            .arg(self.root.path())
            .arg(bounding.join(","));
        for (from, to) in &self.mounts {
            command.arg(format!("{}:{to}", from.display()));
        }
        command.arg("--").args(words).stdin(Stdio::null());
        command
    }

    /// Runs a program in it to its end.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<Output> {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.namespace.spawn(&mut command)?;
        Ok(child.wait_with_output()?)
    }

    /// As [`Self::run`], for what should go well; gives what it says.
    pub(crate) fn says<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<String> {
        let output = self.run(words)?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let words: Vec<_> = words
            .iter()
            .map(|it| it.as_ref().to_string_lossy())
            .collect();
        ensure!(
            output.status.success(),
            "{words:?}: {} {said}",
            output.status
        );
        Ok(said)
    }
}

/// Where the layer is in the archive, by the index.
fn layer() -> Result<String> {
    let manifest: serde_json::Value = serde_json::from_slice(&member("manifest.json")?)?;
    let layer = manifest.pointer("/0/Layers/0").and_then(|it| it.as_str());
    Ok(layer.context("the archive has no layer")?.to_owned())
}

/// A file of the archive.
pub(crate) fn member(name: &str) -> Result<Vec<u8>> {
    let output = Command::new("tar")
        .arg("-xOf")
        .arg(archive())
        .arg(name)
        .output()?;
    ensure!(output.status.success(), "the archive has no {name}");
    Ok(output.stdout)
}

/// Whether this tier was asked for.
pub(crate) fn available() -> bool {
    twill_tests::required()
}

/// A folder of a host, with a file in it.
pub(crate) fn host_folder(file: Option<(&str, &str)>) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    if let Some((name, text)) = file {
        fs::write(folder.path().join(name), text)?;
    }
    Ok(folder)
}
