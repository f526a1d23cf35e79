//! What is taken, what is refused, and with which words.

mod backend;

use std::error::Error;

use proptest::prelude::*;

use super::*;
use crate::vtep::Vni;

/// A configuration with these further entries.
fn with(entries: &str) -> String {
    format!(r#"{{"Network":"10.3.0.0/16","Backend":{{"Type":"vxlan"}}{entries}}}"#)
}

/// A configuration whose backend has these further entries.
fn with_backend(entries: &str) -> String {
    format!(r#"{{"Network":"10.3.0.0/16","Backend":{{"Type":"vxlan"{entries}}}}}"#)
}

fn parse(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The error with its sources, as a log shows it.
fn refusal(text: &str) -> String {
    let error = NetworkConfig::parse(text).expect_err(text);
    let source = error.source().map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

fn default_backend() -> VxlanConfig {
    VxlanConfig {
        vni: Vni::new(1).unwrap(),
        port: None,
        mtu: None,
        gbp: false,
        learning: false,
        direct_routing: false,
    }
}

#[test]
fn defaults_are_flannels() {
    // `TestConfigDefaults`, in lower case as upstream writes it.
    let config = parse(r#"{ "network": "10.3.0.0/16", "backend": { "type": "VXLAN" } }"#);
    let expected = NetworkConfig {
        network: "10.3.0.0/16".parse().unwrap(),
        subnet_len: 24,
        subnet_min: Ipv4Addr::new(10, 3, 1, 0),
        subnet_max: Ipv4Addr::new(10, 3, 255, 0),
        nftables: None,
        backend: Backend::Vxlan(default_backend()),
        warnings: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn subnets_are_derived_or_set() {
    for (network, entries, expected) in [
        ("10.3.0.0/16", "", "10.3.1.0-10.3.255.0/24"),
        // `TestConfigOverrides`.
        (
            "10.3.0.0/16",
            r#","SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0","SubnetLen":28"#,
            "10.3.5.0-10.3.8.0/28",
        ),
        ("10.3.4.5/16", "", "10.3.1.0-10.3.255.0/24"),
        ("10.3.0.0/21", "", "10.3.1.0-10.3.7.0/24"),
        ("10.3.0.0/22", "", "10.3.1.0-10.3.3.0/24"),
        ("10.3.0.0/23", "", "10.3.0.128-10.3.1.128/25"),
        ("10.3.0.0/28", "", "10.3.0.4-10.3.0.12/30"),
        ("10.3.0.0/28", r#","SubnetLen":30"#, "10.3.0.4-10.3.0.12/30"),
        (
            "10.3.0.0/16",
            r#","SubnetLen":18"#,
            "10.3.64.0-10.3.192.0/18",
        ),
        ("10.3.0.0/16", r#","SubnetLen":0"#, "10.3.1.0-10.3.255.0/24"),
        (
            "10.3.0.0/16",
            r#","SubnetLen":null"#,
            "10.3.1.0-10.3.255.0/24",
        ),
        (
            "10.3.0.0/16",
            r#","SubnetMin":"0.0.0.0""#,
            "10.3.1.0-10.3.255.0/24",
        ),
        // The first subnet is left out only by default.
        (
            "10.3.0.0/16",
            r#","SubnetMin":"10.3.0.0""#,
            "10.3.0.0-10.3.255.0/24",
        ),
        ("255.255.0.0/16", "", "255.255.1.0-255.255.255.0/24"),
        ("128.0.0.0/1", r#","SubnetLen":3"#, "160.0.0.0-224.0.0.0/3"),
    ] {
        let text = format!(r#"{{"Network":"{network}","Backend":{{"Type":"vxlan"}}{entries}}}"#);
        let config = parse(&text);
        let NetworkConfig {
            subnet_len: len,
            subnet_min: min,
            subnet_max: max,
            ..
        } = config;
        assert_eq!(format!("{min}-{max}/{len}"), expected, "{text}");
    }
}

#[test]
fn keys_follow_go() {
    for (text, expected) in [
        // The last of equal keys wins, in whatever case it is written.
        (with(r#","SubnetLen":20,"subnetlen":25,"SUBNETLEN":26"#), 26),
        (with(r#","SUBNETLEN":26,"SubnetLen":25"#), 25),
        // `null` leaves what was there.
        (with(r#","SubnetLen":26,"SubnetLen":null"#), 26),
        (with(r#","EnableIPv4":null,"EnableIPv6":null"#), 24),
        (with(r#","EnableIPv4":false,"enableipv4":true"#), 24),
        (format!(" \t\r\n{} \n", with("")), 24),
    ] {
        assert_eq!(parse(&text).subnet_len, expected, "{text}");
    }
    let text = with_backend(r#","Type":"udp","TYPE":"vxlan","vni":7,"VNI":8"#);
    let vni = parse(&text).backend.vxlan().map(|vxlan| vxlan.vni.get());
    assert_eq!(vni, Some(8));
}

#[test]
fn what_has_no_effect_is_said() {
    for (text, expected) in [
        (
            with(r#","Netwrok":"10.4.0.0/16""#),
            "Netwrok: unknown key, ignored",
        ),
        (
            with(r#","IPv6Network":"fc00::/48""#),
            "IPv6Network: IPv6 is not available yet, ignored",
        ),
        (
            with_backend(r#","Name":"flannel7""#),
            "Backend.Name: unknown key, ignored",
        ),
    ] {
        assert_eq!(parse(&text).warnings, [expected], "{text}");
    }
    assert_eq!(
        parse(&with(r#","EnableIPv6":false,"EnableNFTables":true"#)).warnings,
        [""; 0]
    );
}

#[test]
fn bad_networks_are_refused() {
    for (entries, expected) in [
        (
            r#""EnableIPv4":true"#,
            "please define a correct Network parameter in the flannel config \
             (Network is missing; write an IPv4 prefix, as \"10.244.0.0/16\")",
        ),
        (
            r#""Network":"0.0.0.0/0""#,
            "please define a correct Network parameter in the flannel config \
             (Network is 0.0.0.0/0; write an IPv4 prefix, as \"10.244.0.0/16\")",
        ),
        (
            r#""Network":"fc00::/48""#,
            "invalid IPv4 CIDR format (Network is \"fc00::/48\"; \
             write an IPv4 prefix, as \"10.244.0.0/16\")",
        ),
        (
            r#""Network":"""#,
            "invalid IPv4 CIDR format (Network is \"\"; ",
        ),
        (
            r#""Network":"10.3.0.0""#,
            "invalid IPv4 CIDR format (Network is \"10.3.0.0\"; ",
        ),
        (
            r#""Network":"10.03.0.0/16""#,
            "invalid IPv4 CIDR format (Network is \"10.03.0.0/16\"; ",
        ),
        (r#""Network":null"#, "Network is null; write an IPv4 prefix"),
        (
            r#""Network":"10.3.0.0/16","Network":null"#,
            "Network is null; write an IPv4 prefix",
        ),
        (r#""Network":10"#, "Network is 10; write an IPv4 prefix"),
        (
            r#""Network":{}"#,
            "Network is an object; write an IPv4 prefix",
        ),
        (
            r#""Network":"10.3.0.0/29""#,
            "network is too small. Minimum useful network prefix is /28 \
             (Network is 10.3.0.0/29; write a prefix of /28 or shorter)",
        ),
        // With a length, flannel asks for room for it and not for itself.
        (
            r#""Network":"10.3.0.0/29","SubnetLen":30"#,
            "network must be able to accommodate at least four subnets \
             (Network is 10.3.0.0/29; write a prefix of /28 or shorter)",
        ),
        (
            r#""Network":"10.3.0.0/32","SubnetLen":31"#,
            "SubnetLen must be less than /31 \
             (Network is 10.3.0.0/32; write a prefix of /28 or shorter)",
        ),
        (
            r#""EnableIPv6":true"#,
            "EnableIPv6 is true: not available yet; write false, or leave the key out",
        ),
        (
            r#""EnableIPv4":false,"EnableIPv6":true"#,
            "EnableIPv6 is true: not available yet; write false",
        ),
        (
            r#""EnableIPv4":false"#,
            "none defined stack (EnableIPv4 is false; write true)",
        ),
        (
            r#""EnableIPv6":"no""#,
            "EnableIPv6 is \"no\"; write true or false, without quotes",
        ),
        (
            r#""EnableNFTables":1"#,
            "EnableNFTables is 1; write true or false, without quotes",
        ),
    ] {
        let text = format!(r#"{{{entries},"Backend":{{"Type":"vxlan"}}}}"#);
        let refusal = refusal(&text);
        assert!(refusal.starts_with(expected), "{text}: {refusal}");
    }
}

#[test]
fn bad_subnets_are_refused() {
    for (entries, expected) in [
        (
            r#""SubnetLen":31"#,
            "SubnetLen must be less than /31 \
             (SubnetLen is 31; write a prefix length from 18 to 30 for 10.3.0.0/16)",
        ),
        (
            r#""SubnetLen":18446744073709551615"#,
            "SubnetLen must be less than /31 (SubnetLen is 184",
        ),
        (
            r#""SubnetLen":17"#,
            "network must be able to accommodate at least four subnets \
             (SubnetLen is 17; write a prefix length from 18 to 30 for 10.3.0.0/16)",
        ),
        (
            r#""SubnetLen":-1"#,
            "out of range (SubnetLen is -1; write a prefix length",
        ),
        (
            r#""SubnetLen":24.0"#,
            "SubnetLen is 24.0; write a prefix length",
        ),
        (
            r#""SubnetLen":"24""#,
            "SubnetLen is \"24\"; write a prefix length",
        ),
        (
            r#""SubnetMin":"10.4.1.0""#,
            "SubnetMin is not in the range of the Network \
             (SubnetMin is 10.4.1.0; write the first address of a /24 in 10.3.0.0/16)",
        ),
        (
            r#""SubnetMax":"10.2.1.0""#,
            "SubnetMax is not in the range of the Network (SubnetMax is",
        ),
        (
            r#""SubnetMin":"10.3.1.1""#,
            "SubnetMin is not on a SubnetLen boundary: 10.3.1.1 (SubnetMin is 10.3.1.1; ",
        ),
        (
            r#""SubnetMax":"10.3.1.128""#,
            "SubnetMax is not on a SubnetLen boundary: 10.3.1.128 (SubnetMax is 10.3.1.128; ",
        ),
        (
            r#""SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0""#,
            "no subnet from SubnetMin to SubnetMax \
             (SubnetMin is 10.3.9.0; write an address from 10.3.0.0 to 10.3.8.0)",
        ),
        (
            r#""SubnetMin":"10.3.1""#,
            "invalid IP address format (SubnetMin is \"10.3.1\"; ",
        ),
        (
            r#""SubnetMin":"fc00::""#,
            "invalid IP address format (SubnetMin is \"fc00::\"; ",
        ),
        (
            r#""SubnetMax":null"#,
            "SubnetMax is null; write an IPv4 address",
        ),
    ] {
        let refusal = refusal(&with(&format!(",{entries}")));
        assert!(refusal.starts_with(expected), "{entries}: {refusal}");
    }
}

#[test]
fn other_texts_are_no_json_object() {
    let good = with("");
    for text in [
        "",
        "null",
        "[]",
        "7",
        "\"\"",
        "{",
        "{]",
        "\u{feff}{}",
        "// comment\n{}",
    ] {
        let refusal = refusal(text);
        assert!(
            refusal.starts_with("network config is not a JSON object: "),
            "{refusal}"
        );
    }
    for trailing in ["}", "x", "{}", "//", "null"] {
        let refusal = refusal(&format!("{good}{trailing}"));
        assert!(refusal.contains("trailing characters"), "{refusal}");
    }
    // Every prefix of a good text.
    for (end, _) in good.char_indices() {
        NetworkConfig::parse(&good[..end]).expect_err(&good[..end]);
    }
}

#[test]
fn errors_repeat_little_of_a_long_value() {
    let long = "x".repeat(1_000_000);
    for text in [
        with(&format!(r#","SubnetMin":"{long}""#)),
        with(&format!(r#","SubnetLen":"{long}""#)),
        format!(r#"{{"Network":"{long}"}}"#),
        with(&format!(r#","Backend":{{"Type":"{long}"}}"#)),
    ] {
        assert!(refusal(&text).len() < 300);
    }
    let config = parse(&with(&format!(r#","{long}":1"#)));
    assert!(config.warnings.iter().all(|warning| warning.len() < 300));
}

#[test]
fn nesting_without_end_is_refused() {
    let deep = format!(r#"{{"a":{}"#, r#"{"a":"#.repeat(100_000));
    assert!(refusal(&deep).contains("recursion limit exceeded"));
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f32>().prop_map(|number| format!("{number:?}")),
        "(10|255|0|)\\.[0-9]{1,3}\\.[0-9]{1,3}\\.0(/[0-9]{1,2})?"
            .prop_map(|text| format!("{text:?}")),
        (0_u32..40).prop_map(|number| number.to_string()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just(r#"{"Type":"vxlan"}"#.to_owned()),
    ]
}

#[test]
fn where_kubernetes_gives_the_subnets_the_text_says_nothing_of_them() {
    for (network, keys, own, min, max) in [
        // The first subnet is a node's as any other.
        (
            "10.244.0.0/16",
            "",
            "10.244.0.0/24",
            "10.244.0.0",
            "10.244.255.0",
        ),
        (
            "10.244.0.0/16",
            "",
            "10.244.3.64/26",
            "10.244.0.0",
            "10.244.255.192",
        ),
        // What flannel checks only where it gives subnets itself.
        (
            "10.244.7.0/24",
            "",
            "10.244.7.0/24",
            "10.244.7.0",
            "10.244.7.0",
        ),
        (
            "10.244.7.0/29",
            "",
            "10.244.7.0/30",
            "10.244.7.0",
            "10.244.7.4",
        ),
        (
            "10.244.0.0/16",
            r#","SubnetLen":7,"SubnetMin":"192.0.2.1","SubnetMax":"x""#,
            "10.244.3.0/24",
            "10.244.0.0",
            "10.244.255.0",
        ),
    ] {
        let text = format!(r#"{{"Network":"{network}","Backend":{{"Type":"vxlan"}}{keys}}}"#);
        let own: Subnet = own.parse().unwrap();
        let config = NetworkConfig::parse_for_nodes(&text, own).unwrap();
        assert_eq!(config.subnet_len, own.prefix());
        assert_eq!(config.subnet_min.to_string(), min, "{text}");
        assert_eq!(config.subnet_max.to_string(), max, "{text}");
        assert!(config.fits(own), "{text}");
        let told = config.warnings.iter();
        let told = told.filter(|warning| warning.contains("Kubernetes gives the subnets"));
        assert_eq!(told.count(), keys.matches("Subnet").count(), "{text}");
    }
    let own = "10.244.0.0/24".parse().unwrap();
    assert!(NetworkConfig::parse_for_nodes(r#"{"Backend":{"Type":"vxlan"}}"#, own).is_err());
}

proptest! {
    #[test]
    fn noise_never_panics(text in "\\PC*") {
        drop(NetworkConfig::parse(&text));
    }

    /// What is taken holds what the fields promise.
    #[test]
    fn taken_values_are_sound(
        network in "[0-9]{1,3}\\.[0-9]{1,3}\\.0\\.0/[0-9]{1,2}",
        entries in prop::collection::vec(
            (prop::sample::select(&KEYS[..]), value()), 0..4),
    ) {
        let entries = entries.iter().map(|(key, value)| format!(r#","{key}":{value}"#));
        let entries = entries.collect::<Vec<_>>().concat();
        let text = format!(r#"{{"Network":"{network}","Backend":{{"Type":"vxlan"}}{entries}}}"#);
        if let Ok(config) = NetworkConfig::parse(&text) {
            prop_assert!(config.subnet_min <= config.subnet_max);
            prop_assert!(config.subnet_len <= 30);
            prop_assert!(config.subnet_len >= config.network.prefix() + 2);
            for address in [config.subnet_min, config.subnet_max] {
                let subnet: Subnet = format!("{address}/{}", config.subnet_len).parse().unwrap();
                prop_assert!(config.network.covers(subnet));
                prop_assert!(config.fits(subnet));
            }
        }
    }
}
