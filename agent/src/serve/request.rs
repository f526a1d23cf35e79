//! What comes in over HTTP, parsed strictly: after this nothing is invalid.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use twill_core::backend::check_data;
use twill_core::lease::{BackendData, LeaseAttrs};
use twill_core::subnet::Subnet;

use super::answer::ErrorAnswer;

/// `LeaseAttrs` as a node sends it. The type in core reads what other writers left in a
/// store and is tolerant; here a misspelt key would be lost silently.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttrsBody {
    #[serde(rename = "PublicIP")]
    public_ip: Ipv4Addr,
    #[serde(rename = "PublicIPv6", default)]
    public_ipv6: Option<Ipv6Addr>,
    #[serde(rename = "BackendType", default)]
    backend_type: String,
    #[serde(rename = "BackendData", default)]
    backend_data: Option<BackendData>,
    #[serde(rename = "BackendV6Data", default)]
    backend_v6_data: Option<BackendData>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AcquireBody {
    attrs: AttrsBody,
    #[serde(default)]
    previous: Option<Subnet>,
}

/// The query of a list or watch.
#[derive(Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Whether to stream what changes after `revision`.
    #[serde(default)]
    pub(super) watch: bool,
    /// The revision that the watcher knows.
    pub(super) revision: Option<u64>,
    /// The store that the revision is of.
    pub(super) store: Option<String>,
}

/// The query of a renewal or release.
#[derive(Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct HolderQuery {
    /// The underlay address that the lease is held under.
    pub(super) public_ip: Option<Ipv4Addr>,
}

/// The body of an acquire.
pub(super) fn acquire(
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(LeaseAttrs, Option<Subnet>), ErrorAnswer> {
    let AcquireBody { attrs, previous } = json(
        headers,
        body,
        r#"{"attrs":{"PublicIP":…},"previous":"10.244.1.0/24"}"#,
    )?;
    Ok((checked(attrs)?, previous))
}

/// The body of a renewal.
pub(super) fn attrs(headers: &HeaderMap, body: &[u8]) -> Result<LeaseAttrs, ErrorAnswer> {
    checked(json(headers, body, r#"{"PublicIP":…,"BackendType":…}"#)?)
}

/// A subnet in a path, in the form of flannel's keys: `10.244.1.0-24`.
pub(super) fn subnet_key(text: &str) -> Result<Subnet, ErrorAnswer> {
    Subnet::from_key(text).map_err(|error| ErrorAnswer::invalid("subnet", text, &error.why))
}

fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: &[u8],
    form: &str,
) -> Result<T, ErrorAnswer> {
    // A web page can make a browser post to a loopback address, but not as JSON.
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(ErrorAnswer {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ..ErrorAnswer::invalid("Content-Type", given, "send application/json")
        });
    }
    serde_json::from_slice(body).map_err(|error| {
        let text = String::from_utf8_lossy(body);
        ErrorAnswer::invalid("body", &text, &format!("{error}; send {form}"))
    })
}

fn checked(body: AttrsBody) -> Result<LeaseAttrs, ErrorAnswer> {
    let AttrsBody {
        public_ip,
        public_ipv6,
        backend_type,
        backend_data,
        backend_v6_data,
    } = body;
    if public_ip.is_unspecified()
        || public_ip.is_loopback()
        || public_ip.is_multicast()
        || public_ip.is_broadcast()
    {
        return Err(ErrorAnswer::invalid(
            "PublicIP",
            &public_ip.to_string(),
            "other nodes cannot send to it; give the node's underlay address",
        ));
    }
    if let Some(data) = &backend_data {
        check_data(&backend_type, data)
            .map_err(|why| ErrorAnswer::invalid("BackendData", data.as_str(), &why))?;
    }
    Ok(LeaseAttrs {
        public_ip,
        public_ipv6,
        backend_type,
        backend_data,
        backend_v6_data,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn json_headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json; charset=utf-8"),
        );
        headers
    }

    #[test]
    fn an_acquire_is_read_whole() {
        let body = br#"{"attrs":{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan",
            "BackendData":{"VNI":1,"VtepMAC":"02:00:5e:10:00:01"}},"previous":"10.244.3.0/24"}"#;
        let (attrs, previous) = acquire(&json_headers(), body).unwrap();
        assert_eq!(attrs.public_ip, Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(attrs.backend_type, "vxlan");
        assert_eq!(attrs.backend_data.unwrap().value()["VNI"], 1);
        assert_eq!(previous, Some("10.244.3.0/24".parse().unwrap()));
    }

    #[test]
    fn a_wrong_body_names_what_is_wrong() {
        let cases = [
            ("", "body", "EOF"),
            ("[]", "body", "invalid"),
            ("{}", "body", "missing field `attrs`"),
            (r#"{"attrs":{}}"#, "body", "missing field `PublicIP`"),
            (r#"{"attrs":{"PublicIP":"x"}}"#, "body", "IPv4"),
            (
                r#"{"attrs":{"PublicIP":"192.0.2.1","BackendTyp":"vxlan"}}"#,
                "body",
                "BackendTyp",
            ),
            (
                r#"{"attrs":{"PublicIP":"192.0.2.1"},"prevous":null}"#,
                "body",
                "prevous",
            ),
            (
                r#"{"attrs":{"PublicIP":"192.0.2.1"},"previous":"10.1.1.1/24"}"#,
                "body",
                "host bits",
            ),
            (
                r#"{"attrs":{"PublicIP":"192.0.2.1","PublicIP":"192.0.2.2"}}"#,
                "body",
                "duplicate",
            ),
            (
                r#"{"attrs":{"PublicIP":"192.0.2.1"}} x"#,
                "body",
                "trailing",
            ),
            (
                r#"{"attrs":{"PublicIP":"0.0.0.0"}}"#,
                "PublicIP",
                "underlay address",
            ),
            (
                r#"{"attrs":{"PublicIP":"127.0.0.1"}}"#,
                "PublicIP",
                "underlay address",
            ),
            (
                r#"{"attrs":{"PublicIP":"224.0.0.1"}}"#,
                "PublicIP",
                "underlay address",
            ),
            (
                r#"{"attrs":{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":7}}"#,
                "BackendData",
                "VtepMAC",
            ),
            (
                r#"{"attrs":{"PublicIP":"192.0.2.1","BackendType":"vxlan",
                    "BackendData":{"VNI":16777216,"VtepMAC":"02:00:5e:10:00:01"}}}"#,
                "BackendData",
                "16777215",
            ),
            (
                r#"{"attrs":{"PublicIP":"192.0.2.1","BackendType":"vxlan",
                    "BackendData":{"VNI":1,"VtepMAC":"01:00:5e:10:00:01"}}}"#,
                "BackendData",
                "multicast",
            ),
        ];
        for (body, key, part) in cases {
            let answer = acquire(&json_headers(), body.as_bytes()).unwrap_err();
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(answer.key.as_deref(), Some(key), "{body}");
            assert!(answer.error.contains(part), "{body}: {}", answer.error);
        }
    }

    #[test]
    fn what_does_not_call_itself_json_is_refused() {
        let answer = attrs(&HeaderMap::new(), br#"{"PublicIP":"192.0.2.1"}"#).unwrap_err();
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert!(attrs(&json_headers(), br#"{"PublicIP":"192.0.2.1"}"#).is_ok());
    }

    #[test]
    fn a_subnet_in_a_path_is_flannels_key() {
        assert_eq!(
            subnet_key("10.244.1.0-24").unwrap(),
            "10.244.1.0/24".parse().unwrap()
        );
        for wrong in [
            "",
            "-",
            "10.244.1.0",
            "10.244.1.0-",
            "10.244.1.0-33",
            "10.244.1.1-24",
            "10.244.1.0/24",
            "10.244.1.0--24",
            "10.244.1.0-+24",
            "10.244.01.0-24",
            "x-24",
            "10.244.1.0-24&fd00::-64",
        ] {
            assert!(subnet_key(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
