//! The flags of `twilld podcidr`: those of podcidr-controller 1.1.0, and a few more.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use thiserror::Error;
use twill_core::podcidr::{Pool, PoolError, Selector, TaintPattern, Times};
use twill_core::subnet::Subnet;

/// Gives Nodes of Kubernetes their podCIDR, where the controller manager does not.
#[derive(Args, Clone, Debug)]
pub struct PodcidrArgs {
    /// The pods' networks, separated by commas, of either family or both. A Node gets one prefix
    /// of each family; several networks of one family are used up one after the other.
    #[arg(long, value_name = "PREFIX,…", required = true, value_delimiter = ',')]
    pub cluster_cidr: Vec<Subnet>,
    /// Length of the prefix that a Node gets of an IPv4 network.
    #[arg(long, value_name = "BITS", default_value_t = 24)]
    pub node_cidr_mask_size: u8,
    /// Length of the prefix that a Node gets of an IPv6 network.
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    pub node_cidr_mask_size_ipv6: u8,
    /// Which Nodes are meant: a JSON array of matchExpressions, as
    /// `[{"key":"type","operator":"In","values":["cvm"]}]`; without it all of them.
    #[arg(
        long,
        value_name = "JSON",
        default_value = "",
        hide_default_value = true
    )]
    pub node_selector: Selector,
    /// Taints that are taken from these Nodes: key, key:effect or key=value:effect, separated by
    /// commas.
    #[arg(long, value_name = "TAINT,…", value_delimiter = ',', default_value = "",
          value_parser = taint, hide_default_value = true)]
    pub remove_taints: Vec<Option<TaintPattern>>,
    /// How long a prefix rests that a deleted Node had, if there are others: its pods, routes and
    /// entries go meanwhile.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = go_duration)]
    pub rest: Duration,
    /// Let one of several controllers work, by a Lease.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true")]
    pub leader_elect: bool,
    /// How long others wait after the one that works was heard of last.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = go_duration)]
    pub leader_elect_lease_duration: Duration,
    /// How long it goes on working while it cannot renew.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = go_duration)]
    pub leader_elect_renew_deadline: Duration,
    /// Between two attempts.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = go_duration)]
    pub leader_elect_retry_period: Duration,
    /// Name of the Lease.
    #[arg(long, value_name = "NAME", default_value = "twill-podcidr")]
    pub leader_elect_resource_name: String,
    /// Namespace of the Lease; without it the pod's own, else kube-system.
    #[arg(long, value_name = "NAME")]
    pub leader_elect_resource_namespace: Option<String>,
    /// The kubeconfig; in a pod none is needed.
    #[arg(long, alias = "kubeconfig", value_name = "FILE")]
    pub kubeconfig_file: Option<PathBuf>,
}

/// Flags that cannot be, together.
#[derive(Debug, Error)]
pub enum PodcidrArgsError {
    /// A length that does not fit.
    #[error("--node-cidr-mask-size, --node-cidr-mask-size-ipv6")]
    Pool(#[from] PoolError),
    /// Networks that have addresses in common.
    #[error("--cluster-cidr has {one} and {other}, which overlap; leave one out")]
    Overlap {
        /// The first.
        one: Subnet,
        /// The second.
        other: Subnet,
    },
    /// Two could work at once.
    #[error("{0}")]
    Times(&'static str),
}

impl PodcidrArgs {
    /// The networks, cut up.
    pub fn pools(&self) -> Result<Vec<Pool>, PodcidrArgsError> {
        for (place, one) in self.cluster_cidr.iter().enumerate() {
            let others = self.cluster_cidr.iter().skip(place + 1);
            if let Some(other) = others.clone().find(|other| other.overlaps(*one)) {
                let (one, other) = (*one, *other);
                return Err(PodcidrArgsError::Overlap { one, other });
            }
        }
        let pools = self.cluster_cidr.iter().map(|range| {
            let len = if range.network().is_ipv4() {
                self.node_cidr_mask_size
            } else {
                self.node_cidr_mask_size_ipv6
            };
            Ok(Pool::new(*range, len)?)
        });
        pools.collect()
    }

    /// The times of the election.
    pub fn times(&self) -> Result<Times, PodcidrArgsError> {
        let times = Times {
            lease: self.leader_elect_lease_duration,
            renew: self.leader_elect_renew_deadline,
            retry: self.leader_elect_retry_period,
        };
        match times.wrong() {
            Some(why) => Err(PodcidrArgsError::Times(why)),
            None => Ok(times),
        }
    }

    /// The taints that are to go.
    pub fn taints(&self) -> Vec<TaintPattern> {
        self.remove_taints.iter().flatten().cloned().collect()
    }
}

/// An entry without text is none, as in a chart's empty value.
fn taint(text: &str) -> Result<Option<TaintPattern>, twill_core::podcidr::ParseTaintError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some)
}

/// A time as Go's `time.ParseDuration` reads it, in h, m, s and ms, at least a second.
fn go_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time of a second or more, as 15s, 2m or 1h30m".to_owned();
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (digits, unit) = rest.split_at(end);
        let number: u32 = digits.parse().map_err(|_not_a_number| wrong())?;
        let (each, length) = match unit.as_bytes() {
            [b'm', b's', ..] => (Duration::from_millis(1), 2),
            [b'h', ..] => (Duration::from_hours(1), 1),
            [b'm', ..] => (Duration::from_mins(1), 1),
            [b's', ..] => (Duration::from_secs(1), 1),
            _ => return Err(wrong()),
        };
        sum = each
            .checked_mul(number)
            .and_then(|it| sum.checked_add(it))
            .ok_or_else(wrong)?;
        rest = unit.get(length..).unwrap_or_default();
    }
    if sum < Duration::from_secs(1) {
        return Err(wrong());
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: PodcidrArgs,
    }

    fn parse(words: &[&str]) -> Result<PodcidrArgs, clap::Error> {
        Line::try_parse_from(std::iter::once(&"x").chain(words)).map(|line| line.args)
    }

    /// The words that podcidr-controller's chart renders.
    #[test]
    fn flags_are_podcidr_controllers() {
        let args = parse(&[
            "--cluster-cidr=10.244.0.0/16",
            "--node-cidr-mask-size=24",
            r#"--node-selector=[{"key":"a","operator":"Exists"}]"#,
            "--remove-taints=tke.cloud.tencent.com/eni-ip-unavailable:NoSchedule,\
             tke.cloud.tencent.com/uninitialized",
            "--leader-elect=true",
            "--leader-elect-lease-duration=15s",
            "--leader-elect-renew-deadline=10s",
            "--leader-elect-retry-period=2s",
        ])
        .unwrap();
        assert_eq!(args.taints().len(), 2);
        assert_eq!(args.pools().unwrap().len(), 1);
        assert_eq!(args.times().unwrap().lease, Duration::from_secs(15));
        let bare = parse(&[
            "--cluster-cidr=10.244.0.0/16,fd00::/48",
            "--leader-elect=false",
        ]);
        let bare = bare.unwrap();
        assert!(!bare.leader_elect && bare.taints().is_empty());
        assert_eq!(bare.pools().unwrap().len(), 2);
        assert!(parse(&["--cluster-cidr=10.244.0.0/16", "--remove-taints="]).is_ok());
    }

    #[test]
    fn what_cannot_be_is_said() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--cluster-cidr=10.244.0.1/16"]).is_err());
        let wrong = |words: &[&str]| parse(words).unwrap().pools().unwrap_err().to_string();
        let overlap = wrong(&["--cluster-cidr=10.0.0.0/8,10.244.0.0/16"]);
        assert!(
            overlap.contains("10.244.0.0/16, which overlap"),
            "{overlap}"
        );
        wrong(&["--cluster-cidr=10.244.0.0/16", "--node-cidr-mask-size=8"]);
        let times = parse(&[
            "--cluster-cidr=10.0.0.0/8",
            "--leader-elect-renew-deadline=15s",
        ]);
        assert!(times.unwrap().times().is_err());
    }

    #[test]
    fn times_are_gos() {
        for (text, seconds) in [("15s", 15), ("2m", 120), ("1h30m", 5400), ("1500ms", 1)] {
            assert_eq!(go_duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for bad in [
            "",
            "15",
            "s",
            "-1s",
            "1d",
            "0s",
            "999ms",
            "1.5s",
            "99999999999s",
        ] {
            assert!(go_duration(bad).is_err(), "{bad}");
        }
    }
}
