//! Throughput by iperf3.

use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::command::command;
use crate::netns::Namespace;
use crate::wait::wait_for;

/// iperf3's own port.
const PORT: u16 = 5201;
/// How long the server may take until it listens.
const START: Duration = Duration::from_secs(5);

/// What one run carried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// Bits per second that arrived, TCP payload.
    pub bits_per_second: f64,
    /// Segments that TCP sent again.
    pub retransmits: u64,
}

/// Runs one TCP stream from `client` to `server`, whose address is `to`.
pub fn throughput(
    client: &Namespace,
    server: &Namespace,
    to: Ipv4Addr,
    duration: Duration,
) -> Result<Throughput> {
    run(client, server, to, duration, &[])
}

/// As [`throughput`], of a stream that sends no more than `rate`, as `100M` bits per second.
pub fn paced(
    client: &Namespace,
    server: &Namespace,
    to: Ipv4Addr,
    duration: Duration,
    rate: &str,
) -> Result<Throughput> {
    run(client, server, to, duration, &["--bitrate", rate])
}

fn run(
    client: &Namespace,
    server: &Namespace,
    to: Ipv4Addr,
    duration: Duration,
    further: &[&str],
) -> Result<Throughput> {
    let serving = Serving::start(server)?;
    let to = to.to_string();
    let seconds = duration.as_secs().max(1).to_string();
    let words = [
        "iperf3",
        "--client",
        &to,
        "--time",
        &seconds,
        "--json",
        "--connect-timeout",
        "3000",
    ];
    let text = client.run(&[&words, further].concat())?;
    drop(serving);
    parse(&text)
}

/// The figures in what iperf3 prints with `--json`.
fn parse(text: &str) -> Result<Throughput> {
    let report: Value = serde_json::from_str(text).context("iperf3 printed no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &report["end"];
    Ok(Throughput {
        bits_per_second: end["sum_received"]["bits_per_second"]
            .as_f64()
            .filter(|rate| *rate > 0.0)
            .context("iperf3 received nothing")?,
        retransmits: end["sum_sent"]["retransmits"]
            .as_u64()
            .context("iperf3 tells no retransmits")?,
    })
}

/// A server for one run, ended on drop.
struct Serving(Child);

impl Serving {
    fn start(namespace: &Namespace) -> Result<Self> {
        let mut command = command(&["iperf3", "--server", "--one-off"])?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut serving = Self(namespace.spawn(&mut command)?);
        let filter = format!("sport = :{PORT}");
        let name = namespace.name();
        wait_for(&format!("iperf3 listens in {name}"), START, || {
            if let Some(status) = serving.0.try_wait()? {
                bail!("iperf3 ended with {status}");
            }
            let listening = namespace.run(&["ss", "-Hltn", &filter])?;
            Ok((!listening.is_empty()).then_some(()))
        })?;
        Ok(serving)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // An error says that it has ended by itself, which is what it shall do.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_their_absence_is_an_error() {
        let good =
            r#"{"end":{"sum_sent":{"retransmits":3},"sum_received":{"bits_per_second":1.5e9}}}"#;
        let throughput = parse(good).unwrap();
        assert_eq!(throughput.retransmits, 3);
        assert!((throughput.bits_per_second - 1.5e9).abs() < 1.0);
        for bad in [
            "",
            "{}",
            r#"{"error":"unable to connect"}"#,
            r#"{"end":{"sum_sent":{"retransmits":0},"sum_received":{"bits_per_second":0}}}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
