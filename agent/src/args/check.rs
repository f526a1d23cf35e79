//! What flags mean together, and what is not there yet.

use thiserror::Error;

use super::AgentArgs;

/// The minutes that a lease can be renewed before its end, of the 1440 that it lasts
/// (flannel 0.28.9, `main.go`).
const MARGIN_MINUTES: std::ops::RangeInclusive<i64> = 1..=1439;

/// Flags that cannot be. No text repeats a value that may hold a password.
#[derive(Debug, Error)]
pub enum ArgsError {
    /// `--subnet-lease-renew-margin`.
    #[error(
        "Invalid subnet-lease-renew-margin option, out of acceptable range \
         (it is {minutes}; write 1 to 1439 minutes)"
    )]
    RenewMargin {
        /// The value.
        minutes: i64,
    },
    /// More than one lease store.
    #[error("--lease-server and --kube-subnet-mgr name two lease stores; leave one out")]
    TwoStores,
    /// A URL that tells who we are.
    #[error("{flag} has a user name or password in it; {right}")]
    Credentials {
        /// The flag.
        flag: &'static str,
        /// What would be right.
        right: &'static str,
    },
    /// A flag of flannel's that this build cannot follow.
    #[error("{flag} is not available yet; {instead}")]
    NotAvailable {
        /// The flag.
        flag: &'static str,
        /// What to do.
        instead: &'static str,
    },
}

/// Where leases are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoreChoice<'a> {
    /// In a lease server at this URL.
    Server(&'a str),
    /// In etcd.
    Etcd,
}

impl AgentArgs {
    /// Whether the flags can be, together.
    pub fn check(&self) -> Result<(), ArgsError> {
        let minutes = self.etcd.subnet_lease_renew_margin;
        if !MARGIN_MINUTES.contains(&minutes) {
            return Err(ArgsError::RenewMargin { minutes });
        }
        let server = self.lease_server.as_deref().unwrap_or_default();
        for (flag, urls, right) in [
            (
                "--lease-server",
                server,
                "user names and passwords are not supported yet",
            ),
            (
                "--etcd-endpoints",
                &self.etcd.etcd_endpoints,
                "use --etcd-username and --etcd-password",
            ),
        ] {
            if urls.split(',').any(names_a_user) {
                return Err(ArgsError::Credentials { flag, right });
            }
        }
        self.store().map(drop)
    }

    /// Where leases are.
    pub fn store(&self) -> Result<StoreChoice<'_>, ArgsError> {
        match (&self.lease_server, self.kube.kube_subnet_mgr) {
            (Some(_), true) => Err(ArgsError::TwoStores),
            (Some(url), false) => Ok(StoreChoice::Server(url)),
            (None, true) => Err(ArgsError::NotAvailable {
                flag: "--kube-subnet-mgr",
                instead: "leases are in etcd, or in a lease server with --lease-server",
            }),
            (None, false) => Ok(StoreChoice::Etcd),
        }
    }

    /// What was given and has no effect, each a sentence for the log.
    pub fn without_effect(&self) -> Vec<String> {
        let not_yet = [("--public-ipv6", self.public_ipv6.is_some())];
        let not_yet = not_yet.iter().filter(|(_, given)| *given);
        let mut unused: Vec<String> = not_yet
            .map(|(flag, _)| format!("{flag} is not available yet, ignored"))
            .collect();
        if !self.has_subnet_file() {
            unused.push(
                "--subnet-file is empty: CNI plugins are not told the subnet, and /readyz says \
                 no, as with flanneld; name a file, as /run/flannel/subnet.env"
                    .to_owned(),
            );
        }
        let etcd = &self.etcd;
        if etcd.etcd_keyfile.is_some() != etcd.etcd_certfile.is_some() {
            unused.push(
                "--etcd-keyfile and --etcd-certfile: a client certificate takes both; \
                 none is shown to etcd"
                    .to_owned(),
            );
        }
        if etcd.etcd_username.is_some() != etcd.etcd_password.is_some() {
            unused.push(
                "--etcd-username and --etcd-password: etcd is told both or none; it is told none"
                    .to_owned(),
            );
        }
        let kube = [
            ("--kube-api-url", self.kube.kube_api_url.is_some()),
            ("--kubeconfig-file", self.kube.kubeconfig_file.is_some()),
        ];
        let kube = kube.iter().filter(|(_, given)| *given);
        unused.extend(kube.map(|(flag, _)| format!("{flag}: --kube-subnet-mgr is not set")));
        unused
    }
}

/// Whether the authority of a URL has a part before an `@`.
fn names_a_user(url: &str) -> bool {
    let (_, after) = url.split_once("://").unwrap_or(("", url));
    let authority = after.split(['/', '?', '#']).next().unwrap_or_default();
    authority.contains('@')
}
