//! The flags of the Kubernetes store: flannel's.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::values::{file, go_bool};

/// Where Kubernetes is, and what we write there.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Lease store: Kubernetes")]
pub struct KubeArgs {
    /// Take leases from Kubernetes' nodes instead of etcd.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = go_bool)]
    pub kube_subnet_mgr: bool,
    /// The API server's URL; in a pod it is known.
    #[arg(long, value_name = "URL")]
    pub kube_api_url: Option<String>,
    /// What the names of the node's annotations begin with.
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "flannel.alpha.coreos.com"
    )]
    pub kube_annotation_prefix: String,
    /// The kubeconfig; in a pod none is needed.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig_file: Option<PathBuf>,
    /// The network config.
    #[arg(
        long,
        value_name = "FILE",
        value_parser = file,
        default_value = "/etc/kube-flannel/net-conf.json"
    )]
    pub net_config_path: PathBuf,
    /// Set the node's condition `NetworkUnavailable` to false when it is ready.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", value_parser = go_bool)]
    pub set_node_network_unavailable: bool,
}
