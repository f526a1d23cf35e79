//! The programs that the demo and the tests run.

use std::env;
use std::path::{Path, PathBuf};

use super::Purpose;
use super::compiler::Compiler;
use crate::process;

/// Names the folder of the CNI plugins, here and in the tests.
pub(crate) const CNI_VARIABLE: &str = "TWILL_CNI_PATH";
/// Where they are looked for otherwise: Debian's folder, then upstream's.
const CNI_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The first folder that has CNI plugins.
pub(crate) fn cni_folder() -> PathBuf {
    if let Some(folder) = env::var_os(CNI_VARIABLE).filter(|value| !value.is_empty()) {
        return folder.into();
    }
    let mut folders = CNI_FOLDERS.iter().map(PathBuf::from);
    let found = folders.find(|folder| process::is_executable(&folder.join("bridge")));
    found.unwrap_or_else(|| CNI_FOLDERS[0].into())
}

/// One thing that must be there, and the Debian package that brings it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Tool {
    /// The program's name.
    pub(super) program: &'static str,
    /// Its package in Debian and Ubuntu.
    pub(super) package: &'static str,
    kind: Kind,
}

#[derive(Debug, Eq, PartialEq)]
enum Kind {
    Command,
    CniPlugin,
    File,
}

pub(super) const fn command(program: &'static str, package: &'static str) -> Tool {
    Tool {
        program,
        package,
        kind: Kind::Command,
    }
}

const fn cni_plugin(program: &'static str) -> Tool {
    Tool {
        program,
        package: "containernetworking-plugins",
        kind: Kind::CniPlugin,
    }
}

pub(super) const fn file(path: &'static str, package: &'static str) -> Tool {
    Tool {
        program: path,
        package,
        kind: Kind::File,
    }
}

const TOOLS: &[Tool] = &[
    command("ip", "iproute2"),
    command("tc", "iproute2"),
    command("ss", "iproute2"),
    command("nft", "nftables"),
    command("iptables", "iptables"),
    command("iperf3", "iperf3"),
    command("ethtool", "ethtool"),
    command("tcpdump", "tcpdump"),
    command("conntrack", "conntrack"),
    command("jq", "jq"),
    command("bpftool", "bpftool"),
    command("unshare", "util-linux"),
    command("ping", "iputils-ping"),
    command("sysctl", "procps"),
    // What etcd's client is built from.
    command("protoc", "protobuf-compiler"),
    file(
        "/usr/include/google/protobuf/descriptor.proto",
        "libprotobuf-dev",
    ),
    command("etcd", "etcd-server"),
    command("etcdctl", "etcd-client"),
    cni_plugin("bridge"),
    cni_plugin("host-local"),
    cni_plugin("ptp"),
    cni_plugin("portmap"),
    cni_plugin("loopback"),
];

/// The keys that Debian's package lists are signed with; Ubuntu has them as a package.
pub(crate) const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What other kernels need beside [`TOOLS`]: something to boot them in, and to take them apart.
const KERNEL_TOOLS: &[Tool] = &[
    command("qemu-system-x86_64", "qemu-system-x86"),
    command("busybox", "busybox-static"),
    command("depmod", "kmod"),
    command("xz", "xz-utils"),
    command("setpriv", "util-linux"),
    command("ipvsadm", "ipvsadm"),
    command("bridge", "iproute2"),
    command("apt-get", "apt"),
    command("dpkg", "dpkg"),
    file(DEBIAN_KEYS, "debian-archive-keyring"),
];

/// The clippy of the BPF compiler. rustup's nightly has it as a component of its own.
const CLIPPY: &Tool = &command("cargo-clippy", "rust-web-clippy");

/// Every tool that `purpose` needs and is not there; the linter only once its compiler is.
pub(super) fn missing(purpose: Purpose, compiler: Option<&Compiler>) -> Vec<&'static Tool> {
    let more: &[Tool] = match purpose {
        Purpose::Machine => &[],
        Purpose::Kernels => KERNEL_TOOLS,
    };
    let clippy = compiler
        .is_some_and(|compiler| !compiler.has_clippy())
        .then_some(CLIPPY);
    TOOLS
        .iter()
        .chain(more)
        .filter(|tool| !tool.is_there())
        .chain(clippy)
        .collect()
}

impl Tool {
    pub(super) fn is_there(&self) -> bool {
        match self.kind {
            Kind::Command => process::find(self.program).is_some(),
            Kind::File => Path::new(self.program).exists(),
            Kind::CniPlugin => process::is_executable(&cni_folder().join(self.program)),
        }
    }
}

#[cfg(test)]
pub(super) mod samples {
    use super::{Tool, cni_plugin, command};

    pub(in crate::setup) const NFT: &Tool = &command("nft", "nftables");
    pub(in crate::setup) const CNI: [&Tool; 2] = [&cni_plugin("bridge"), &cni_plugin("host-local")];
}
