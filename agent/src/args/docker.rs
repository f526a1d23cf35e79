//! The flags of `twilld mk-docker-opts`: those of flannel's `mk-docker-opts.sh`.

use std::path::PathBuf;

use clap::Args;
use twill_core::docker_opts::Form;

/// Writes Docker's options for the node's subnet, as flannel's mk-docker-opts.sh.
#[derive(Args, Clone, Debug)]
pub struct DockerArgs {
    /// The file that the agent has written.
    #[arg(
        short = 'f',
        value_name = "FLANNEL-ENV-FILE",
        default_value = "/run/flannel/subnet.env"
    )]
    pub flannel_env: PathBuf,
    /// The file to write.
    #[arg(
        short = 'd',
        value_name = "DOCKER-ENV-FILE",
        default_value = "/run/docker_opts.env"
    )]
    pub docker_env: PathBuf,
    /// A variable for each option, as `DOCKER_OPT_MTU`. Without -i and -c: both.
    #[arg(short = 'i')]
    pub individual: bool,
    /// One variable with all options.
    #[arg(short = 'c')]
    pub combined: bool,
    /// Leave --ip-masq out, for old versions of Docker.
    #[arg(short = 'm')]
    pub no_ip_masq: bool,
    /// Name of the one variable.
    #[arg(
        short = 'k',
        value_name = "COMBINED-KEY",
        default_value = "DOCKER_OPTS"
    )]
    pub key: String,
}

impl DockerArgs {
    /// What is to be written.
    pub fn form(&self) -> Form {
        let both = !self.individual && !self.combined;
        Form {
            individual: self.individual || both,
            combined: (self.combined || both).then(|| self.key.clone()),
            ip_masq: !self.no_ip_masq,
        }
    }
}
