//! The image's file system, in memory: sorted by path, owned by root, of one time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::contents::Contents;
use super::elf;
use super::packages::{Package, Packages};

/// Folders that are there for what is mounted in them: the root may be read-only.
const FOLDERS: [&str; 17] = [
    "/dev",
    "/etc/cni/net.d",
    "/etc/kube-flannel",
    "/host",
    "/opt/bin",
    "/opt/cni/bin",
    "/proc",
    "/root",
    "/run/flannel",
    "/run/twill",
    "/sys",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/sbin",
    "/var/lib/twill",
    "/lib/modules",
];
/// Folders that are others, as Debian has them.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// What is at a path.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Node {
    Folder { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Link { target: String },
}

/// The file system.
#[derive(Debug, Default)]
pub(super) struct Rootfs {
    nodes: BTreeMap<String, Node>,
    /// The packages that something is from.
    pub(super) used: BTreeSet<String>,
}

impl Rootfs {
    /// The folders that are there in any case.
    pub(super) fn folders(&mut self) {
        for name in MERGED {
            let target = format!("usr/{name}");
            self.put(&format!("/{name}"), Node::Link { target });
        }
        for path in FOLDERS {
            self.put(path, Node::Folder { mode: 0o755 });
        }
        self.put("/tmp", Node::Folder { mode: 0o1777 });
    }

    /// The files below a folder of this machine.
    pub(super) fn overlay(&mut self, folder: &Path) -> Result<()> {
        let mut files = Vec::new();
        walk(folder, &mut files)?;
        for file in files {
            let path = Path::new("/").join(file.strip_prefix(folder)?);
            self.copy(&file, &path.to_string_lossy())?;
        }
        Ok(())
    }

    /// A program of ours.
    pub(super) fn program(&mut self, path: &str, bytes: Vec<u8>) {
        self.put(path, Node::File { mode: 0o755, bytes });
    }

    /// A file of ours.
    pub(super) fn file(&mut self, path: &str, bytes: Vec<u8>) {
        self.put(path, Node::File { mode: 0o644, bytes });
    }

    /// What the list takes from the packages, its links, and the libraries of all programs.
    pub(super) fn fill(&mut self, contents: &Contents, packages: &Packages) -> Result<()> {
        for take in &contents.takes {
            let name = &take.package;
            let package = packages
                .get(name)
                .with_context(|| format!("apt has no package {name}"))?;
            let place = find(package, &take.path)
                .with_context(|| format!("{name} has no {}", take.path))?;
            if place.is_dir() {
                let mut files = Vec::new();
                walk(&place, &mut files)?;
                for file in files {
                    let below = file.strip_prefix(&place)?.to_string_lossy();
                    self.copy(&file, &format!("{}/{below}", take.path))?;
                }
            } else {
                self.copy(&place, &take.path)?;
            }
            self.used.insert(name.clone());
        }
        for (path, target) in &contents.links {
            let target = target.clone();
            self.put(path, Node::Link { target });
        }
        self.authorities();
        self.libraries(packages)?;
        for name in self.used.clone() {
            let copyright = format!("/usr/share/doc/{name}/copyright");
            // Some packages have that of another one, by a link.
            let places = packages.get(&name).into_iter().chain(packages.values());
            let linked = |it: &Package| {
                let link = fs::read_link(it.folder.join(format!("usr/share/doc/{name}"))).ok()?;
                find(
                    packages.get(link.to_str()?)?,
                    &format!("/usr/share/doc/{}/copyright", link.display()),
                )
            };
            let found = places.clone().find_map(|it| find(it, &copyright));
            if let Some(place) = found.or_else(|| places.clone().find_map(linked)) {
                self.copy(&place, &copyright)?;
            }
        }
        Ok(())
    }

    /// One file of all certificates, as `update-ca-certificates` makes it.
    fn authorities(&mut self) {
        let mut bundle = Vec::new();
        let of = |path: &&String| path.starts_with("/usr/share/ca-certificates/");
        let paths: Vec<_> = self.nodes.keys().filter(of).cloned().collect();
        for path in paths {
            if let Some(Node::File { bytes, .. }) = self.nodes.remove(&path) {
                bundle.extend(bytes);
                if !bundle.ends_with(b"\n") {
                    bundle.push(b'\n');
                }
            }
        }
        self.file("/etc/ssl/certs/ca-certificates.crt", bundle);
    }

    /// The libraries that the programs and libraries ask for, until nothing is asked for that is
    /// not there.
    fn libraries(&mut self, packages: &Packages) -> Result<()> {
        let scratch = std::env::temp_dir().join(format!("twill-elf-{}", std::process::id()));
        let mut looked_at = BTreeSet::new();
        loop {
            let new: Vec<_> = self
                .nodes
                .iter()
                .filter(|(path, _)| !looked_at.contains(*path))
                .filter_map(|(path, node)| match node {
                    Node::File { bytes, .. } if elf::is_elf(bytes) => {
                        Some((path.clone(), bytes.clone()))
                    }
                    Node::File { .. } | Node::Folder { .. } | Node::Link { .. } => None,
                })
                .collect();
            if new.is_empty() {
                break;
            }
            for (path, bytes) in new {
                fs::write(&scratch, bytes)
                    .with_context(|| format!("write {}", scratch.display()))?;
                for name in elf::needed(&scratch)? {
                    self.library(&name, packages)
                        .with_context(|| format!("{path} asks for it"))?;
                }
                looked_at.insert(path);
            }
        }
        if scratch.exists() {
            fs::remove_file(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
        }
        Ok(())
    }

    fn library(&mut self, name: &str, packages: &Packages) -> Result<()> {
        let path = if name.starts_with('/') {
            merged(name)
        } else {
            format!("{}/{name}", elf::library_folder())
        };
        if self.nodes.contains_key(&path) {
            return Ok(());
        }
        for (package, unpacked) in packages {
            if let Some(place) = find(unpacked, &path) {
                self.copy(&place, &path)?;
                self.used.insert(package.clone());
                return Ok(());
            }
        }
        bail!("no package has {path}")
    }

    /// A file of this machine, what its links lead to.
    fn copy(&mut self, file: &Path, path: &str) -> Result<()> {
        let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let mode = fs::metadata(file)
            .with_context(|| format!("look at {}", file.display()))?
            .permissions()
            .mode();
        // What a clone or umask has made of the rest says nothing.
        let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
        self.put(path, Node::File { mode, bytes });
        Ok(())
    }

    fn put(&mut self, path: &str, node: Node) {
        let path = merged(path);
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        if !above.is_empty() && !self.nodes.contains_key(above) {
            self.put(above, Node::Folder { mode: 0o755 });
        }
        self.nodes.insert(path, node);
    }

    /// As a tar archive.
    pub(super) fn layer(&self, time: u64) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, node) in &self.nodes {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(time);
            header.set_uid(0);
            header.set_gid(0);
            let name = path.trim_start_matches('/');
            match node {
                Node::Folder { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    archive.append_data(&mut header, format!("{name}/"), std::io::empty())
                }
                Node::File { mode, bytes } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    archive.append_data(&mut header, name, bytes.as_slice())
                }
                Node::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    archive.append_link(&mut header, name, target)
                }
            }
            .with_context(|| format!("add {path}"))?;
        }
        archive.into_inner().context("end the layer")
    }
}

/// A path with the folders that are others resolved.
fn merged(path: &str) -> String {
    for name in MERGED {
        // The link itself stays.
        if let Some(rest) = path.strip_prefix(&format!("/{name}/")) {
            return format!("/usr/{name}/{rest}");
        }
    }
    path.to_owned()
}

/// Where a package has a path, in whichever of the merged folders.
fn find(package: &Package, path: &str) -> Option<std::path::PathBuf> {
    let other = path.strip_prefix("/usr").unwrap_or(path);
    let places = [path, other].map(|path| package.folder.join(path.trim_start_matches('/')));
    places.into_iter().find(|place| place.exists())
}

fn walk(folder: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut paths: Vec<_> = entries
        .map(|entry| entry.map(|it| it.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.is_symlink() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_where_debian_has_them() {
        assert_eq!(merged("/lib64/ld.so"), "/usr/lib64/ld.so");
        assert_eq!(merged("/bin"), "/bin");
        assert_eq!(merged("/library/x"), "/library/x");
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let layer = |order: [&str; 2]| {
            let mut rootfs = Rootfs::default();
            rootfs.folders();
            for path in order {
                rootfs.file(path, path.as_bytes().to_vec());
            }
            rootfs.layer(7).unwrap()
        };
        let one = layer(["/a/b", "/a/c"]);
        assert_eq!(one, layer(["/a/c", "/a/b"]));
        let mut archive = tar::Archive::new(one.as_slice());
        let paths: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(paths.is_sorted(), "{paths:?}");
        assert!(paths.contains(&"a/".to_owned()), "{paths:?}");
    }
}
