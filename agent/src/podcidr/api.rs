//! The requests to the API server.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::WatchEvent;
use kube::{Client, Config};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;
use twill_core::kube::ListMeta;
use twill_core::podcidr::CidrNode;

/// Less than the time by which another one waits longer than a leader works, so that no request
/// of a former leader is still on its way.
const ANSWER: Duration = Duration::from_secs(3);
/// For all Nodes: nothing is changed by it.
const LIST: Duration = Duration::from_secs(30);
/// Nodes that are asked for at once.
const PAGE: u32 = 500;
/// How long a watch lasts: the connection may have died without a word.
const WATCH_SECONDS: u32 = 300;

const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// What went wrong.
#[derive(Debug, Error)]
pub enum ApiError {
    /// No kubeconfig, or none that can be used.
    #[error("use --kubeconfig-file {}", path.display())]
    Kubeconfig {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// No pod, and no kubeconfig.
    #[error("there is no service account of a pod; give --kubeconfig-file outside of a cluster")]
    NotInCluster(#[source] Box<kube::config::InClusterError>),
    /// No client can be made of it.
    #[error("use these credentials")]
    Client(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("{attempt}: the API server has not answered for {limit:?}")]
    Silent {
        /// What was tried.
        attempt: String,
        /// How long it had.
        limit: Duration,
    },
    /// The API server says no, or is not reached.
    #[error("{attempt}")]
    Failed {
        /// What was tried.
        attempt: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The watch ended with a word of the server's.
    #[error("watch the Nodes: {0}")]
    WatchEnded(String),
}

impl ApiError {
    /// HTTP's number, where the API server gave one.
    pub(super) fn code(&self) -> Option<u16> {
        if let Self::Failed { source, .. } = self
            && let kube::Error::Api(status) = &**source
        {
            Some(status.code)
        } else {
            None
        }
    }
}

/// The API server.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
}

/// All Nodes, and the version to watch from.
pub(super) struct Listed {
    pub(super) nodes: Vec<CidrNode>,
    pub(super) version: String,
}

#[derive(Deserialize)]
struct Page {
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<CidrNode>,
}

impl Api {
    pub(super) async fn connect(kubeconfig: Option<&Path>) -> Result<Self, ApiError> {
        let config = match kubeconfig {
            Some(path) => {
                let wrong = |source| ApiError::Kubeconfig {
                    path: path.to_owned(),
                    source: Box::new(source),
                };
                let read = Kubeconfig::read_from(path).map_err(wrong)?;
                let chosen = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(read, &chosen).await;
                config.map_err(wrong)?
            }
            None => Config::incluster_env()
                .map_err(|source| ApiError::NotInCluster(Box::new(source)))?,
        };
        let client = Client::try_from(config);
        Ok(Self {
            client: client.map_err(|source| ApiError::Client(Box::new(source)))?,
        })
    }

    pub(super) async fn list(&self) -> Result<Listed, ApiError> {
        let mut listed = Listed {
            nodes: Vec::new(),
            version: String::new(),
        };
        let mut next = String::new();
        loop {
            let path = format!("/api/v1/nodes?limit={PAGE}&continue={next}");
            let page: Page = self.ask("list the Nodes", LIST, get(&path)).await?;
            listed.nodes.extend(page.items);
            listed.version = page.metadata.resource_version;
            next = page.metadata.continue_token.unwrap_or_default();
            if next.is_empty() {
                return Ok(listed);
            }
        }
    }

    /// A Node; `None` if there is none of that name.
    pub(super) async fn node(&self, name: &str) -> Result<Option<CidrNode>, ApiError> {
        let attempt = format!("read node {name:?}");
        let request = get(&format!("/api/v1/nodes/{name}"));
        found(self.ask(&attempt, ANSWER, request).await)
    }

    pub(super) async fn patch(&self, name: &str, patch: &Value) -> Result<CidrNode, ApiError> {
        let attempt = format!("patch node {name:?}");
        let path = format!("/api/v1/nodes/{name}");
        let request = request(Method::PATCH, &path, Some(MERGE), patch);
        self.ask(&attempt, ANSWER, request).await
    }

    /// Calls `seen` with each change from a version on, until the watch ends.
    pub(super) async fn watch(
        &self,
        version: &str,
    ) -> Result<impl futures_util::Stream<Item = Result<WatchEvent<CidrNode>, ApiError>>, ApiError>
    {
        const ATTEMPT: &str = "watch the Nodes";
        let path = format!(
            "/api/v1/nodes?watch=true&allowWatchBookmarks=true&resourceVersion={version}\
             &timeoutSeconds={WATCH_SECONDS}"
        );
        let request = get(&path).map_err(|error| failed(ATTEMPT)(kube::Error::HttpError(error)))?;
        let opened = tokio::time::timeout(LIST, self.client.request_events(request)).await;
        let events = opened
            .map_err(|_elapsed| silent(ATTEMPT, LIST))?
            .map_err(failed(ATTEMPT))?;
        let failed = failed(ATTEMPT);
        Ok(events.map(move |event: kube::Result<_>| event.map_err(&failed)))
    }

    /// A Lease as it is stored; `None` if there is none.
    pub(super) async fn lease(&self, path: &str, name: &str) -> Result<Option<Value>, ApiError> {
        let attempt = format!("read Lease {name:?}");
        found(
            self.ask(&attempt, ANSWER, get(&format!("{path}/{name}")))
                .await,
        )
    }

    /// Writes a Lease; one that has a version must still have it.
    pub(super) async fn write_lease(
        &self,
        path: &str,
        name: &str,
        lease: &Value,
    ) -> Result<(), ApiError> {
        let attempt = format!("write Lease {name:?}");
        let is_there = lease.pointer("/metadata/resourceVersion").is_some();
        let request = if is_there {
            request(Method::PUT, &format!("{path}/{name}"), Some(JSON), lease)
        } else {
            request(Method::POST, path, Some(JSON), lease)
        };
        let written: Result<Value, _> = self.ask(&attempt, ANSWER, request).await;
        written.map(drop)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        attempt: &str,
        limit: Duration,
        request: Result<Request<Vec<u8>>, http::Error>,
    ) -> Result<T, ApiError> {
        let request = request.map_err(|error| failed(attempt)(kube::Error::HttpError(error)))?;
        let asked = tokio::time::timeout(limit, self.client.request(request)).await;
        asked
            .map_err(|_elapsed| silent(attempt, limit))?
            .map_err(failed(attempt))
    }
}

fn found<T>(answer: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(attempt: &str) -> impl Fn(kube::Error) -> ApiError + use<> {
    let attempt = attempt.to_owned();
    move |source| ApiError::Failed {
        attempt: attempt.clone(),
        source: Box::new(source),
    }
}

fn silent(attempt: &str, limit: Duration) -> ApiError {
    ApiError::Silent {
        attempt: attempt.to_owned(),
        limit,
    }
}

fn get(path: &str) -> Result<Request<Vec<u8>>, http::Error> {
    request(Method::GET, path, None, &json!(null))
}

fn request(
    method: Method,
    path: &str,
    form: Option<&str>,
    body: &Value,
) -> Result<Request<Vec<u8>>, http::Error> {
    let builder = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::ACCEPT, JSON);
    match form {
        Some(form) => builder
            .header(http::header::CONTENT_TYPE, form)
            .body(body.to_string().into_bytes()),
        None => builder.body(Vec::new()),
    }
}
