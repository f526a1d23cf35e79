//! `Backend`.

use super::*;

#[test]
fn backend_settings_are_read() {
    let text = with_backend(
        r#","VNI":16777215,"Port":65535,"MTU":1450,"GBP":true,"Learning":true,"DirectRouting":true"#,
    );
    let config = parse(&text);
    let expected = VxlanConfig {
        vni: Vni::new(16_777_215).unwrap(),
        port: Some(65_535),
        mtu: Some(1450),
        gbp: true,
        learning: true,
        direct_routing: true,
    };
    assert_eq!(config.backend, Backend::Vxlan(expected));
    assert_eq!(config.warnings, [""; 0]);
    for (entries, expected) in [
        (
            r#","VNI":0"#,
            VxlanConfig {
                vni: Vni::new(0).unwrap(),
                ..default_backend()
            },
        ),
        (r#","Port":0"#, default_backend()),
        (
            r#","Port":4789"#,
            VxlanConfig {
                port: Some(4789),
                ..default_backend()
            },
        ),
        (
            r#","MTU":626"#,
            VxlanConfig {
                mtu: Some(626),
                ..default_backend()
            },
        ),
        (
            r#","MTU":null,"VNI":null,"Port":null,"GBP":null"#,
            default_backend(),
        ),
    ] {
        let expected = Backend::Vxlan(expected);
        assert_eq!(parse(&with_backend(entries)).backend, expected, "{entries}");
    }
}

#[test]
fn bad_backends_are_refused() {
    let there_is =
        "; those there are: \"Backend\": {\"Type\": \"vxlan\"} and {\"Type\": \"host-gw\"}";
    for (backend, expected) in [
        (
            "",
            "unknown backend type: \"udp\" (the default without Backend)",
        ),
        (
            r#","Backend":{}"#,
            "unknown backend type: \"\" (the default without Type)",
        ),
        (
            r#","Backend":{"Type":null}"#,
            "unknown backend type: \"\" (the default without Type)",
        ),
        (
            r#","Backend":null"#,
            "unknown backend type: \"\" (the default without Type)",
        ),
        (
            r#","Backend":{"Type":""}"#,
            "unknown backend type: \"\" (Backend.Type)",
        ),
        (
            r#","Backend":{"Type":"ipip"}"#,
            "unknown backend type: \"ipip\" (Backend.Type)",
        ),
    ] {
        let refusal = refusal(&format!(r#"{{"Network":"10.3.0.0/16"{backend}}}"#));
        assert_eq!(refusal, format!("{expected}{there_is}"), "{backend}");
    }
    for (backend, expected) in [
        (
            r#""vxlan""#,
            "Backend is \"vxlan\"; write {\"Type\": \"vxlan\"}",
        ),
        (r#"{"Type":7}"#, "Backend.Type is 7; write \"vxlan\""),
    ] {
        let text = format!(r#"{{"Network":"10.3.0.0/16","Backend":{backend}}}"#);
        let expected = format!("error decoding Backend property of config: {expected}");
        assert_eq!(refusal(&text), expected);
    }
}

#[test]
fn bad_backend_settings_are_refused() {
    let vni = "write an integer from 0 to 16777215, as 24 bits hold it";
    let port = "write a UDP port from 1 to 65535, or 0 for the kernel's default, 8472";
    let mtu = "write the underlay's MTU in bytes, an integer from 626 to 65535, \
               or leave the key out to take the uplink's";
    for (entry, expected) in [
        (
            r#""VNI":16777216"#,
            format!("out of range (Backend.VNI is 16777216; {vni})"),
        ),
        (
            r#""VNI":-1"#,
            format!("out of range (Backend.VNI is -1; {vni})"),
        ),
        (r#""VNI":1.0"#, format!("Backend.VNI is 1.0; {vni}")),
        (r#""VNI":1e2"#, format!("Backend.VNI is 100.0; {vni}")),
        (r#""VNI":"1""#, format!("Backend.VNI is \"1\"; {vni}")),
        (r#""VNI":[1]"#, format!("Backend.VNI is [1]; {vni}")),
        (
            r#""VNI":18446744073709551616"#,
            format!("Backend.VNI is 1.8446744073709552e+19; {vni}"),
        ),
        (
            r#""Port":65536"#,
            format!("out of range (Backend.Port is 65536; {port})"),
        ),
        (
            r#""Port":-1"#,
            format!("out of range (Backend.Port is -1; {port})"),
        ),
        (
            r#""MTU":0"#,
            format!("out of range (Backend.MTU is 0; {mtu})"),
        ),
        (
            r#""MTU":625"#,
            format!("out of range (Backend.MTU is 625; {mtu})"),
        ),
        (
            r#""MTU":65536"#,
            format!("out of range (Backend.MTU is 65536; {mtu})"),
        ),
        (
            r#""Learning":"yes""#,
            "Backend.Learning is \"yes\"; write true or false, without quotes".to_owned(),
        ),
    ] {
        let expected = format!("error decoding VXLAN backend config: {expected}");
        assert_eq!(refusal(&with_backend(&format!(",{entry}"))), expected);
    }
}
