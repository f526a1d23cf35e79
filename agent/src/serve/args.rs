//! The flags of `twilld serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use thiserror::Error;

/// The shortest term that `--lease-ttl` takes: agents renew at half of it.
const SHORTEST_TERM: Duration = Duration::from_secs(10);

/// Runs the lease server: hands out subnets to nodes and keeps them in a file.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// File with the network config, as flannel's net-conf.json.
    #[arg(long, value_name = "FILE")]
    pub network_config: PathBuf,
    /// Directory for the lease store; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address and port to listen on. There is no TLS and no authentication yet: whoever
    /// reaches it can take and release leases.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7890")]
    pub listen: SocketAddr,
    /// How long a lease lasts without renewal: a number with s, m, h or d.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_term)]
    pub lease_ttl: Duration,
}

/// Text that is no term of a lease.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{text:?} is no term; write a whole number with s, m, h or d, at least 10s, as 24h")]
pub struct ParseTermError {
    text: String,
}

fn parse_term(text: &str) -> Result<Duration, ParseTermError> {
    let error = || ParseTermError {
        text: text.to_owned(),
    };
    let unit = text.chars().next_back().ok_or_else(error)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(error()),
    };
    let number = text.strip_suffix(unit).ok_or_else(error)?;
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error());
    }
    // 32 bits of a unit are more than anybody means, and every sum with them fits 64 bits.
    let Ok(number) = number.parse::<u32>() else {
        return Err(error());
    };
    let term = Duration::from_secs(u64::from(number) * seconds);
    if term < SHORTEST_TERM {
        return Err(error());
    }
    Ok(term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_a_number_with_a_unit() {
        assert_eq!(parse_term("24h"), Ok(Duration::from_hours(24)));
        assert_eq!(parse_term("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_term("2d"), Ok(Duration::from_hours(48)));
        for wrong in [
            "",
            "h",
            "24",
            "9s",
            "0h",
            "-1h",
            "+1h",
            "1.5h",
            "24 h",
            "24H",
            "5000000000s",
            "1é",
        ] {
            assert!(parse_term(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
