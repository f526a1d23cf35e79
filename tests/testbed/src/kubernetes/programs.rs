//! Where Kubernetes' programs are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Folders of programs, as `cargo xtask setup` built them.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Those of Kubernetes itself, kubectl, etcd and pause.
    pub kube: PathBuf,
    /// containerd, its shim and ctr.
    pub containerd: PathBuf,
    /// runc.
    pub runc: PathBuf,
}

impl Programs {
    /// Those that `TWILL_KUBE`, `TWILL_CONTAINERD` and `TWILL_RUNC` name.
    pub fn find() -> Result<Self> {
        Ok(Self {
            kube: folder("TWILL_KUBE", "kubelet")?,
            containerd: folder("TWILL_CONTAINERD", "containerd")?,
            runc: folder("TWILL_RUNC", "runc")?,
        })
    }

    /// One of Kubernetes' own.
    pub fn kube(&self, name: &str) -> PathBuf {
        self.kube.join(name)
    }
}

fn folder(variable: &str, program: &str) -> Result<PathBuf> {
    let folder = std::env::var_os(variable).with_context(|| {
        format!("{variable} is not set: `cargo xtask test kubernetes` builds what it names")
    })?;
    let folder = Path::new(&folder);
    ensure!(
        folder.join(program).is_file(),
        "{variable} names {}, which has no {program}",
        folder.display()
    );
    Ok(folder.to_owned())
}
