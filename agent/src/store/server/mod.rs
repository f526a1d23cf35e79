//! Twill's lease server as a store: the client of `twilld serve`.

mod answer;
mod error;
mod keep;
mod line;
mod lines;
mod watch;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use serde_json::json;

use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::subnet::Subnet;

use self::answer::{AnswerError, ErrorBody};

pub use self::answer::AnswerError as UnreadableAnswer;
pub use self::error::Error;

use super::beginning::Beginning;
use super::shared::Shared;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The server sends a bookmark every 10 s; three of them missing is silence.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// For an answer as a whole, where it is small.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The version of every lease that is there: the server tells no other.
const THERE: i64 = 1;

/// A config or a lease has some hundred bytes.
const ANSWER_BYTES: usize = 1 << 20;

/// The client. Clones share one connection pool.
#[derive(Clone, Debug)]
pub struct ServerStore {
    client: Client,
    base: String,
    shared: Arc<Shared>,
}

impl ServerStore {
    /// A client for the server at this URL, as `http://192.0.2.1:7890`. Connects later.
    pub fn new(url: &str) -> Result<Self, Error> {
        let base = base(url)?;
        // No proxy: between a node and its lease server there is none, whatever the
        // environment says for other programs. No redirect: a lease server sends none.
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(IDLE_TIMEOUT)
            .redirect(redirect::Policy::none())
            // Each call has a connection of its own: a kept one may be from an address that
            // this node has lost since, and calls are rare.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .map_err(Error::Client)?;
        Ok(Self {
            client,
            base,
            shared: Arc::default(),
        })
    }

    /// What keeper and watcher share.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The network config.
    pub async fn begin(&self) -> Result<Beginning, Error> {
        let attempt = "fetch the network config";
        let call = self.call(Method::GET, "config", attempt);
        let text = call.small().await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(Beginning::new(text)?)
    }

    /// Takes a subnet: the one this address holds, the previous one, else a free one.
    pub async fn acquire(
        &self,
        attrs: &LeaseAttrs,
        previous: Option<Subnet>,
    ) -> Result<Lease, Error> {
        let body = json!({"attrs": attrs, "previous": previous});
        let mut call = self.call(Method::POST, "leases", "acquire a lease");
        call.request = call.request.json(&body);
        call.lease(attrs.public_ip).await
    }

    /// A new term for a lease, and the attributes as they are now. `holder` is the underlay
    /// address that the lease is held under; `attrs` may have a new one.
    pub async fn renew(
        &self,
        subnet: Subnet,
        holder: Ipv4Addr,
        attrs: &LeaseAttrs,
    ) -> Result<Lease, Error> {
        let mut call = self.call(Method::PUT, &lease_path(subnet), "renew the lease");
        call.request = call
            .request
            .query(&[("public_ip", holder.to_string())])
            .json(attrs);
        call.subnet = Some(subnet);
        call.lease(attrs.public_ip).await
    }

    /// Gives a lease back.
    pub async fn release(&self, subnet: Subnet, holder: Ipv4Addr) -> Result<(), Error> {
        let mut call = self.call(Method::DELETE, &lease_path(subnet), "release the lease");
        call.request = call.request.query(&[("public_ip", holder.to_string())]);
        call.subnet = Some(subnet);
        call.lease(holder).await.map(drop)
    }

    fn call(&self, method: Method, resource: &str, attempt: &'static str) -> Call {
        let url = format!("{}/v1/network/{resource}", self.base);
        Call {
            request: self.client.request(method, &url),
            url,
            attempt,
            subnet: None,
        }
    }
}

/// A request, and what its errors say.
struct Call {
    request: RequestBuilder,
    url: String,
    attempt: &'static str,
    subnet: Option<Subnet>,
}

impl Call {
    /// The whole body of a small answer.
    async fn small(mut self) -> Result<Bytes, Error> {
        self.request = self.request.timeout(ANSWER_TIMEOUT);
        self.body(ANSWER_BYTES).await
    }

    /// The body of an answer, if it is a success and not longer than this.
    async fn body(self, limit: usize) -> Result<Bytes, Error> {
        let (mut response, call) = self.send().await?;
        call.read(&mut response, limit).await
    }

    /// The answer, if it is a success.
    async fn send(self) -> Result<(Response, Answered), Error> {
        let Self {
            request,
            url,
            attempt,
            subnet,
        } = self;
        let call = Answered {
            url,
            attempt,
            subnet,
        };
        let mut response = request.send().await.map_err(|error| call.failed(error))?;
        if response.status() == StatusCode::OK {
            return Ok((response, call));
        }
        let body = call.read(&mut response, ANSWER_BYTES).await?;
        Err(call.refused(response.status(), &body))
    }

    /// The answer as a lease of this holder, and of the subnet that was asked for.
    async fn lease(mut self, holder: Ipv4Addr) -> Result<Lease, Error> {
        self.request = self.request.timeout(ANSWER_TIMEOUT);
        let (mut response, call) = self.send().await?;
        let body = call.read(&mut response, ANSWER_BYTES).await?;
        let lease = answer::lease(&body).map_err(|source| call.unreadable(source))?;
        if lease.attrs.public_ip != holder {
            return Err(call.unreadable(AnswerError::Value {
                key: "PublicIP",
                value: lease.attrs.public_ip.to_string(),
                right: format!("it was asked for {holder}"),
            }));
        }
        if let Some(subnet) = call.subnet
            && subnet != lease.subnet
        {
            return Err(call.unreadable(AnswerError::Value {
                key: "subnet",
                value: lease.subnet.to_string(),
                right: format!("it was asked for {subnet}"),
            }));
        }
        Ok(lease)
    }
}

/// What the errors of an answered request say.
struct Answered {
    url: String,
    attempt: &'static str,
    subnet: Option<Subnet>,
}

impl Answered {
    async fn read(&self, response: &mut Response, limit: usize) -> Result<Bytes, Error> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if body.len() + chunk.len() > limit {
                return Err(self.unreadable(AnswerError::TooLong { limit }));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    fn failed(&self, source: reqwest::Error) -> Error {
        Error::Request {
            attempt: self.attempt,
            url: self.url.clone(),
            // The URL is in our own text already.
            source: source.without_url(),
        }
    }

    fn unreadable(&self, source: AnswerError) -> Error {
        Error::Unreadable {
            attempt: self.attempt,
            url: self.url.clone(),
            source,
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Error {
        // Only a body of the right form is a lease server's word: a proxy answers 404, too.
        let Ok(body) = serde_json::from_slice::<ErrorBody>(body) else {
            return Error::Status {
                attempt: self.attempt,
                url: self.url.clone(),
                status,
            };
        };
        let ErrorBody {
            error,
            reason,
            key,
            value,
        } = body;
        match (reason.as_str(), self.subnet) {
            ("not_held", Some(subnet)) => Error::NotHeld { subnet },
            ("held_by_another", Some(subnet)) => Error::HeldByAnother { subnet, why: error },
            ("gone", _) => Error::Gone { why: error },
            _ => Error::Refused {
                attempt: self.attempt,
                status,
                error,
                key,
                value,
            },
        }
    }
}

fn lease_path(subnet: Subnet) -> String {
    format!("leases/{}", subnet.to_key())
}

fn base(text: &str) -> Result<String, Error> {
    let wrong = |why: &str| Error::Url {
        value: text.to_owned(),
        why: why.to_owned(),
    };
    let url: Url = text.parse().map_err(|error| Error::Url {
        value: text.to_owned(),
        why: format!("{error}"),
    })?;
    match url.scheme() {
        "http" => {}
        "https" => return Err(wrong("TLS is not supported yet")),
        _ => return Err(wrong("it is no http URL")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("user names and passwords are not supported yet"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a query or a fragment"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// See [`super::noise::server`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn noise(text: &[u8]) {
    drop(answer::List::parse(text));
    drop(answer::lease(text));
    let mut cursor = super::cursor::Cursor::default();
    cursor.listed("a".to_owned(), 1);
    for pieces in [1, 7, text.len().max(1)] {
        let mut lines = lines::Lines::new(1 << 16);
        let mut count = 0;
        for piece in text.chunks(pieces) {
            lines.push(piece);
            while let Ok(Some(line)) = lines.next() {
                count += 1;
                drop(cursor.line(&line));
            }
        }
        if text.len() <= 1 << 16 {
            assert_eq!(count + 1, text.split(|&byte| byte == b'\n').count());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_http_with_host_and_port() {
        for (text, expected) in [
            ("http://192.0.2.1:7890", "http://192.0.2.1:7890"),
            ("http://leases.example:7890/", "http://leases.example:7890"),
            (
                "http://[2001:db8::1]:7890/twill",
                "http://[2001:db8::1]:7890/twill",
            ),
        ] {
            assert_eq!(base(text).unwrap(), expected);
        }
        for wrong in [
            "",
            "192.0.2.1:7890",
            "localhost:7890",
            "https://192.0.2.1:7890",
            "unix:///run/twill",
            "http://",
            "http://a:b@192.0.2.1:7890",
            "http://192.0.2.1:7890/?x=y",
        ] {
            assert!(base(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
