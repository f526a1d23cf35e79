//! The delegate's config, from the plugin's own and the node's subnet. Pure.
//!
//! As flannel's `doCmdAdd` on Linux makes it (cni-plugin v1.9.1-flannel3, `flannel_linux.go`).

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use thiserror::Error;

use crate::config::{NetConf, Object, kind};
use crate::subnet_env::SubnetEnv;

const BRIDGE: &str = "bridge";
const HOST_LOCAL: &str = "host-local";

/// Why a config makes no delegate's. The words are flannel's.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum DelegateError {
    /// Its type is no text.
    #[error("'delegate' dictionary, if present, must have (string) 'type' field")]
    Type,
    /// It has what we set.
    #[error("'delegate' dictionary must not have '{0}' field, it'll be set by flannel")]
    OurField(&'static str),
    /// The routes of `ipam` are no list.
    #[error("'routes' of 'ipam' must be an array, not {0}")]
    Routes(&'static str),
}

/// Makes the delegate's config.
pub(crate) fn config(conf: &NetConf, env: &SubnetEnv) -> Result<Object, DelegateError> {
    let mut delegate = conf.delegate.clone();
    if delegate.get("type").is_some_and(|kind| !kind.is_string()) {
        return Err(DelegateError::Type);
    }
    for field in ["name", "ipam"] {
        if delegate.contains_key(field) {
            return Err(DelegateError::OurField(field));
        }
    }
    if let Some(runtime) = &conf.runtime_config {
        delegate.insert("runtimeConfig".to_owned(), Value::Object(runtime.clone()));
    }
    delegate.insert("name".to_owned(), json!(conf.name));
    let mut unless_set = |key: &str, value: Value| {
        delegate.entry(key).or_insert(value);
    };
    unless_set("type", json!(BRIDGE));
    unless_set("ipMasq", json!(!env.ip_masq));
    unless_set("mtu", json!(env.mtu));
    if delegate.get("type").and_then(Value::as_str) == Some(BRIDGE) {
        delegate.entry("isGateway").or_insert(json!(true));
    }
    if !conf.version.is_empty() {
        delegate.insert("cniVersion".to_owned(), json!(conf.version));
    }
    delegate.insert("ipam".to_owned(), Value::Object(ipam(&conf.ipam, env)?));
    Ok(delegate)
}

/// The name of the plugin that a delegate's config is for.
pub(crate) fn plugin(delegate: &Object) -> Result<&str, DelegateError> {
    let kind = delegate.get("type").and_then(Value::as_str);
    kind.ok_or(DelegateError::Type)
}

fn ipam(given: &Object, env: &SubnetEnv) -> Result<Object, DelegateError> {
    let mut ipam = given.clone();
    ipam.entry("type").or_insert(json!(HOST_LOCAL));
    let ranges: Vec<Value> = [env.subnet, env.subnet_v6]
        .iter()
        .flatten()
        .map(|subnet| json!([{"subnet": subnet.to_string()}]))
        .collect();
    ipam.insert("ranges".to_owned(), Value::Array(ranges));
    let mut routes = match ipam.remove("routes") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(routes)) => routes,
        Some(other) => return Err(DelegateError::Routes(kind(&other))),
    };
    let network = |network: &IpNetwork| json!({"dst": network.to_string()});
    routes.extend(env.networks.iter().chain(&env.networks_v6).map(network));
    ipam.insert("routes".to_owned(), Value::Array(routes));
    Ok(ipam)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(networks: &[&str], subnet: Option<&str>, subnet_v6: Option<&str>) -> SubnetEnv {
        let (v4, v6): (Vec<IpNetwork>, Vec<IpNetwork>) = networks
            .iter()
            .map(|text| text.parse::<IpNetwork>().unwrap())
            .partition(IpNetwork::is_ipv4);
        SubnetEnv {
            networks: v4,
            networks_v6: v6,
            subnet: subnet.map(|text| text.parse().unwrap()),
            subnet_v6: subnet_v6.map(|text| text.parse().unwrap()),
            mtu: 1450,
            ip_masq: true,
        }
    }

    fn stock() -> SubnetEnv {
        env(&["10.244.0.0/16"], Some("10.244.1.0/24"), None)
    }

    #[track_caller]
    fn check(conf: &Value, env: &SubnetEnv, expected: &Value) {
        let conf = NetConf::parse(conf.to_string().as_bytes()).unwrap();
        let made = Value::Object(config(&conf, env).unwrap());
        assert_eq!(made.to_string(), expected.to_string());
    }

    #[test]
    fn flannels_manifest_makes_the_text_that_flannel_makes() {
        let conf = json!({"name": "cbr0", "cniVersion": "0.3.1", "type": "flannel",
            "delegate": {"hairpinMode": true, "isDefaultGateway": true}});
        let conf = NetConf::parse(conf.to_string().as_bytes()).unwrap();
        let made = Value::Object(config(&conf, &stock()).unwrap()).to_string();
        let expected = concat!(
            r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":"#,
            r#"[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"#,
            r#""type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"#,
            r#""name":"cbr0","type":"bridge"}"#
        );
        assert_eq!(made, expected);
    }

    #[test]
    fn each_family_has_a_range_and_a_route() {
        let dual = env(
            &["10.244.0.0/16", "fd00::/56"],
            Some("10.244.1.0/24"),
            Some("fd00:0:0:1::/64"),
        );
        check(
            &json!({"name": "n", "delegate": {"mtu": 1472, "ipMasq": false}}),
            &dual,
            &json!({"ipMasq": false, "isGateway": true, "mtu": 1472, "name": "n", "type": "bridge",
                "ipam": {"type": "host-local",
                    "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:0:0:1::/64"}]],
                    "routes": [{"dst": "10.244.0.0/16"}, {"dst": "fd00::/56"}]}}),
        );
        check(
            &json!({"name": "n"}),
            &env(&["fd00::/56"], None, Some("fd00:0:0:1::/64")),
            &json!({"ipMasq": false, "isGateway": true, "mtu": 1450, "name": "n", "type": "bridge",
                "ipam": {"type": "host-local", "ranges": [[{"subnet": "fd00:0:0:1::/64"}]],
                    "routes": [{"dst": "fd00::/56"}]}}),
        );
    }

    #[test]
    fn what_ipam_says_is_kept_and_its_routes_come_first() {
        check(
            &json!({"name": "n", "delegate": {"type": "ipvlan", "cniVersion": "0.2.0"},
                "cniVersion": "1.0.0", "runtimeConfig": {"mac": "x"},
                "ipam": {"type": "other", "unknown-param": 1, "ranges": "ours",
                    "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.9"}]}}),
            &env(&["10.1.0.0/16", "10.2.0.0/16"], Some("10.1.1.0/24"), None),
            &json!({"cniVersion": "1.0.0", "ipMasq": false, "mtu": 1450, "name": "n",
                "runtimeConfig": {"mac": "x"}, "type": "ipvlan",
                "ipam": {"type": "other", "unknown-param": 1,
                    "ranges": [[{"subnet": "10.1.1.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.9"}, {"dst": "10.1.0.0/16"},
                        {"dst": "10.2.0.0/16"}]}}),
        );
    }

    #[test]
    fn the_delegate_masquerades_where_the_daemon_does_not() {
        let env = SubnetEnv {
            ip_masq: false,
            ..stock()
        };
        let conf = NetConf::parse(br#"{"name": "n"}"#).unwrap();
        let made = config(&conf, &env).unwrap();
        assert_eq!(made.get("ipMasq"), Some(&json!(true)));
    }

    #[test]
    fn what_flannel_sets_must_not_be_there() {
        for (delegate, words) in [
            (json!({"type": 7}), "must have (string) 'type' field"),
            (
                json!({"name": "x"}),
                "must not have 'name' field, it'll be set by flannel",
            ),
            (
                json!({"ipam": {}}),
                "must not have 'ipam' field, it'll be set by flannel",
            ),
        ] {
            let conf = json!({"name": "n", "delegate": delegate}).to_string();
            let conf = NetConf::parse(conf.as_bytes()).unwrap();
            let error = config(&conf, &stock()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
