//! A real Kubernetes: etcd, API server, controller manager, scheduler, and nodes with kubelet,
//! containerd, runc and kube-proxy, all on this machine.
//!
//! [`ControlPlane`] alone is ready in some ten seconds and is enough for what looks at objects:
//! tests write the Nodes themselves.

mod control_plane;
mod pki;
mod programs;

pub use control_plane::{API_SERVER, CLUSTER_CIDR, ControlPlane, Options, Part, SERVICE_CIDR};
pub use pki::User;
pub use programs::Programs;
