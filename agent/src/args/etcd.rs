//! The flags of the etcd store: flannel's.

use std::path::PathBuf;

use clap::Args;

use super::secret::Secret;

/// Where etcd is, and who we are there.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Lease store: etcd")]
pub struct EtcdArgs {
    /// The cluster's members, separated by commas; https for TLS.
    #[arg(
        long,
        value_name = "URL,…",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379"
    )]
    pub etcd_endpoints: String,
    /// What all keys begin with.
    #[arg(long, value_name = "PREFIX", default_value = "/coreos.com/network")]
    pub etcd_prefix: String,
    /// The key of --etcd-certfile, PEM.
    #[arg(long, value_name = "FILE")]
    pub etcd_keyfile: Option<PathBuf>,
    /// The certificate that this node shows to etcd, PEM.
    #[arg(long, value_name = "FILE")]
    pub etcd_certfile: Option<PathBuf>,
    /// The authority that etcd's certificate is checked by, PEM; without it, the system's.
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// User of etcd.
    #[arg(long, value_name = "NAME")]
    pub etcd_username: Option<String>,
    /// Its password. In the environment (`FLANNELD_ETCD_PASSWORD`) the process list does not
    /// show it.
    #[arg(long, value_name = "PASSWORD")]
    pub etcd_password: Option<Secret>,
    /// Minutes before its end that a lease is renewed, 1 to 1439.
    #[arg(
        long,
        value_name = "MINUTES",
        default_value = "60",
        value_parser = super::values::go_int
    )]
    pub subnet_lease_renew_margin: i64,
}

impl EtcdArgs {
    /// Whether some member is reached without TLS because this node has no certificate.
    pub fn is_plain(&self) -> bool {
        let certificate = self.etcd_certfile.is_some() && self.etcd_keyfile.is_some();
        let urls = self.etcd_endpoints.split(',').map(str::trim);
        let mut urls = urls.filter(|url| !url.is_empty());
        let is_tls = |url: &str| url.to_ascii_lowercase().starts_with("https://");
        !certificate && urls.any(|url| !is_tls(url))
    }
}
