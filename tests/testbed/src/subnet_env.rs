//! `subnet.env`, and the CNI configuration that flannel's plugin makes of it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ipnetwork::Ipv4Network;
use serde_json::{Value, json};

/// The plugin that wires a pod.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Delegate {
    /// `bridge`, flannel's default: pods are ports of `cni0`.
    #[default]
    Bridge,
    /// `ptp`: a route to each pod's veth.
    Ptp,
}

/// What the node's agent tells the CNI plugin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SubnetEnv {
    /// `FLANNEL_NETWORK`.
    pub network: Ipv4Network,
    /// `FLANNEL_SUBNET`: the gateway's address with the prefix length.
    pub subnet: Ipv4Network,
    /// `FLANNEL_MTU`.
    pub mtu_bytes: u32,
    /// `FLANNEL_IPMASQ`.
    pub ip_masq: bool,
}

impl SubnetEnv {
    /// Reads the file, as flannel's CNI plugin does: a key and a value a line, no quotes,
    /// no comments, and all four keys.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Parses the text of the file.
    pub fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            let found = lines.find(|(name, _)| *name == key);
            found
                .map(|(_, value)| value)
                .with_context(|| format!("{key} is missing"))
        };
        Ok(Self {
            network: value("FLANNEL_NETWORK")?.parse()?,
            subnet: value("FLANNEL_SUBNET")?.parse()?,
            mtu_bytes: value("FLANNEL_MTU")?.parse()?,
            ip_masq: match value("FLANNEL_IPMASQ")? {
                "true" => true,
                "false" => false,
                other => bail!("FLANNEL_IPMASQ={other}: true or false"),
            },
        })
    }

    /// The text as flannel writes it.
    pub fn text(&self) -> String {
        let Self {
            network,
            subnet,
            mtu_bytes,
            ip_masq,
        } = self;
        format!(
            "FLANNEL_NETWORK={network}\nFLANNEL_SUBNET={subnet}\nFLANNEL_MTU={mtu_bytes}\nFLANNEL_IPMASQ={ip_masq}\n"
        )
    }

    /// The node's subnet with host bits zero.
    pub fn prefix(&self) -> Ipv4Network {
        // A prefix length that an `Ipv4Network` holds is valid for its own network address.
        Ipv4Network::new(self.subnet.network(), self.subnet.prefix()).unwrap_or(self.subnet)
    }

    /// The gateway of the node's pods.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.ip()
    }

    /// The delegate's configuration as flannel's CNI plugin generates it from its stock
    /// manifest (hairpin mode, default gateway), but with `data_dir` for the addresses.
    pub fn delegate(&self, delegate: Delegate, data_dir: &Path) -> Value {
        let ipam = json!({
            "type": "host-local",
            "dataDir": data_dir,
            "ranges": [[{ "subnet": self.prefix().to_string() }]],
            "routes": [{ "dst": self.network.to_string() }],
        });
        match delegate {
            Delegate::Bridge => json!({
                "cniVersion": "0.3.1",
                "name": "cbr0",
                "type": "bridge",
                "hairpinMode": true,
                "ipMasq": !self.ip_masq,
                "isDefaultGateway": true,
                "isGateway": true,
                "mtu": self.mtu_bytes,
                "ipam": ipam,
            }),
            Delegate::Ptp => json!({
                "cniVersion": "0.3.1",
                "name": "cbr0",
                "type": "ptp",
                "ipMasq": !self.ip_masq,
                "mtu": self.mtu_bytes,
                "ipam": ipam,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    #[test]
    fn the_text_is_read_and_written_alike() {
        let env = SubnetEnv::parse(TEXT).unwrap();
        assert_eq!(env.text(), TEXT);
        assert_eq!(env.gateway(), Ipv4Addr::new(10, 244, 1, 1));
        assert_eq!(env.prefix().to_string(), "10.244.1.0/24");
    }

    #[test]
    fn a_missing_or_odd_key_is_named() {
        for key in [
            "FLANNEL_NETWORK",
            "FLANNEL_SUBNET",
            "FLANNEL_MTU",
            "FLANNEL_IPMASQ",
        ] {
            let error = SubnetEnv::parse(&TEXT.replace(key, "OTHER")).unwrap_err();
            assert!(format!("{error:#}").contains(key), "{error:#}");
        }
        assert!(SubnetEnv::parse(&TEXT.replace("true", "yes")).is_err());
    }

    #[test]
    fn the_delegate_is_flannels() {
        // flannel's cni-plugin 1.8, `flannel_linux.go`, for the stock manifest; `dataDir` is ours.
        let mut made = SubnetEnv::parse(TEXT)
            .unwrap()
            .delegate(Delegate::Bridge, Path::new("/data"));
        made["ipam"].as_object_mut().unwrap().remove("dataDir");
        assert_eq!(
            made.to_string(),
            r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
        );
    }
}
