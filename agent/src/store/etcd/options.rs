//! Where etcd is, who we are there, and how long a lease lasts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use super::error::Error;

/// How long an endpoint may take to be connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is asked whether it lives this often, and has as long to answer.
/// etcd takes pings every 5 s at most (`--grpc-keepalive-min-time`).
const PING: Duration = Duration::from_secs(10);

/// How long a lease lasts without renewal (flannel 0.28.9, `pkg/subnet/etcd/local_manager.go`).
pub const LEASE_TERM: Duration = Duration::from_hours(24);

/// How the store is reached and used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Members of the cluster, one of which is asked at a time.
    pub endpoints: Vec<String>,
    /// What keys begin with.
    pub prefix: String,
    /// Files of TLS; read for each connection, so that renewed ones count.
    pub tls: Tls,
    /// User and password.
    pub user: Option<(String, Password)>,
    /// How long a lease lasts; flannel's are [`LEASE_TERM`].
    pub term: Duration,
    /// How long before its end a lease is renewed.
    pub margin: Duration,
}

/// Files of TLS, PEM.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The authority of etcd's certificate; without it, the system's.
    pub authority: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A password; it is not printed.
#[derive(Clone)]
pub struct Password(String);

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Options {
    /// What flannel's flags mean. `endpoints` is the flag's text, split at commas.
    pub fn new(endpoints: &str, prefix: &str) -> Self {
        Self {
            endpoints: endpoints.split(',').map(str::to_owned).collect(),
            prefix: prefix.to_owned(),
            tls: Tls::default(),
            user: None,
            term: LEASE_TERM,
            margin: Duration::from_hours(1),
        }
    }

    /// The URLs of the endpoints, as flannel's client takes them: one without a scheme is plain,
    /// or TLS if we have a certificate; what comes after the port does not matter, and neither
    /// do blanks and entries without anything. What cannot be is left out, as long as there is
    /// another.
    pub(super) fn urls(&self) -> Result<Vec<String>, Error> {
        let (urls, mut wrong) = self.judged();
        if !urls.is_empty() {
            return Ok(urls);
        }
        Err(wrong.pop().unwrap_or_else(|| Error::Endpoint {
            value: self.endpoints.join(","),
            why: "it names no member".to_owned(),
        }))
    }

    /// What is wrong with the endpoints that are left out.
    pub(super) fn left_out(&self) -> Vec<Error> {
        self.judged().1
    }

    fn judged(&self) -> (Vec<String>, Vec<Error>) {
        let scheme = match self.tls.identity {
            Some(_) => "https",
            None => "http",
        };
        let (mut urls, mut wrong) = (Vec::new(), Vec::new());
        for endpoint in &self.endpoints {
            let bare = endpoint.trim_matches([' ', '\t']);
            if bare.is_empty() {
                continue;
            }
            match url(bare, scheme) {
                Ok(url) => urls.push(url),
                Err(why) => wrong.push(Error::Endpoint {
                    value: endpoint.clone(),
                    why,
                }),
            }
        }
        (urls, wrong)
    }

    /// User and password as the client takes them.
    pub(super) fn user(&self) -> Option<(String, String)> {
        let (name, Password(password)) = self.user.as_ref()?;
        Some((name.clone(), password.clone()))
    }

    /// How this URL is connected to; who we are is said after that.
    pub(super) fn connect(&self, url: &str) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING, PING)
            // A member that lost its cluster must say so, and not keep us waiting.
            .with_require_leader(true);
        if url.starts_with("https://") {
            options = options.with_tls(self.tls.options()?);
        }
        Ok(options)
    }
}

/// The URL of a member: scheme, host, and port where there is one.
fn url(endpoint: &str, default_scheme: &str) -> Result<String, String> {
    // The parser leaves some of them out without a word.
    if endpoint.contains(char::is_control) {
        return Err("it has a control character in it, as the end of a line".to_owned());
    }
    let url = match endpoint.split_once("://") {
        Some(_) => endpoint.to_owned(),
        None => format!("{default_scheme}://{endpoint}"),
    };
    let url: reqwest::Url = url.parse().map_err(|error| format!("{error}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err("it is neither http nor https".to_owned());
    }
    let host = url.host_str().ok_or("it has no host")?;
    let port = url.port().map(|port| format!(":{port}"));
    Ok(format!(
        "{}://{host}{}",
        url.scheme(),
        port.unwrap_or_default()
    ))
}

impl Tls {
    fn options(&self) -> Result<TlsOptions, Error> {
        let mut options = TlsOptions::new();
        options = match &self.authority {
            Some(file) => options.ca_certificate(Certificate::from_pem(read(file)?)),
            None => options.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(options)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    fs::read(file).map_err(|source| Error::File {
        path: file.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_of_a_host() {
        let urls = |text| Options::new(text, "/x").urls();
        assert_eq!(
            urls("http://127.0.0.1:4001,http://127.0.0.1:2379").unwrap(),
            ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]
        );
        assert_eq!(
            urls("etcd:2379,https://[2001:db8::1]:2379/").unwrap(),
            ["http://etcd:2379", "https://[2001:db8::1]:2379"]
        );
        for wrong in [
            "",
            ",",
            " , ",
            "http://",
            "unix:///run/etcd",
            "http://a:99999",
            "http://a:2379\r",
            "http://a:2379\n",
            "http://a:2379\nhttp://b:2379",
            "http://a:2379 http://b:2379",
        ] {
            let error = urls(wrong).unwrap_err().to_string();
            assert!(error.contains("--etcd-endpoints"), "{error}");
        }
    }

    #[test]
    fn a_list_of_endpoints_is_read_as_flannel_s_client_reads_it() {
        let options = |text| Options::new(text, "/x");
        for text in [
            "http://a:2379,",
            ",http://a:2379",
            " http://a:2379\t,, ",
            "HTTP://a:2379",
            "http://a:2379/v2",
            "http://a:2379/v2?x=y#z",
        ] {
            assert_eq!(options(text).urls().unwrap(), ["http://a:2379"], "{text:?}");
            assert!(options(text).left_out().is_empty(), "{text:?}");
        }
        assert_eq!(
            options("http://a:2379, http://b:2379").urls().unwrap(),
            ["http://a:2379", "http://b:2379"]
        );
        for text in ["http://a:2379,ftp://b:1", "http://b:2379\r,http://a:2379"] {
            let options = options(text);
            assert_eq!(options.urls().unwrap(), ["http://a:2379"], "{text:?}");
            assert_eq!(options.left_out().len(), 1, "{text:?}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let mut options = Options::new("http://a", "/x");
        options.user = Some(("twill".to_owned(), "hunter2".into()));
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
