//! Strangers' leases in etcd, under flannel's keys.

use std::net::SocketAddrV4;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use twill_testbed::netns::Namespace;
use twill_testbed::wait::check_interrupt;

use super::{PREFIX, Stranger, inside};

/// Operations that etcd takes in one transaction, by default.
const TRANSACTION: usize = 128;

/// etcd's JSON gateway, spoken to from the host that etcd runs on.
#[derive(Clone, Copy, Debug)]
pub struct EtcdGateway<'a> {
    /// The host.
    pub host: &'a Namespace,
    /// Where etcd listens.
    pub address: SocketAddrV4,
    /// flannel's prefix of all keys.
    pub prefix: &'a str,
}

impl EtcdGateway<'_> {
    /// Puts the leases of the strangers of these numbers.
    pub fn fill(self, numbers: Range<u32>) -> Result<()> {
        let url = format!("http://{}/v3/kv/txn", self.address);
        let amount = numbers.len();
        let filled = inside(self.host, async {
            let client = reqwest::Client::new();
            let numbers: Vec<u32> = numbers.collect();
            for part in numbers.chunks(TRANSACTION) {
                check_interrupt()?;
                let puts = part.iter().map(|&number| put(self.prefix, number));
                let puts: Vec<_> = puts.collect();
                let body = json!({ "success": puts });
                let answer = client.post(&url).json(&body).send().await?;
                let answer: Value = answer.error_for_status()?.json().await?;
                ensure!(answer["succeeded"] == true, "etcd answered {answer}");
            }
            Ok(())
        });
        filled.with_context(|| format!("put {amount} leases into etcd"))
    }
}

/// The operation that puts a stranger's lease; the gateway has bytes as Base64.
fn put(prefix: &str, number: u32) -> Value {
    let stranger = Stranger::number(number);
    let key = format!("{prefix}/subnets/{}-{PREFIX}", stranger.subnet);
    let value = stranger.attrs().to_string();
    json!({ "requestPut": { "key": STANDARD.encode(key), "value": STANDARD.encode(value) } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_flannels() {
        let operation = put("/coreos.com/network", 1);
        let text = |field: &str| {
            let bytes = STANDARD
                .decode(operation["requestPut"][field].as_str().unwrap())
                .unwrap();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(text("key"), "/coreos.com/network/subnets/10.1.0.64-26");
        assert_eq!(text("value"), Stranger::number(1).attrs().to_string());
    }
}
