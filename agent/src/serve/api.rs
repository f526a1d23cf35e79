//! The HTTP API.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use twill_core::lease::Lease;

use super::answer::ErrorAnswer;
use super::clock::Clock;
use super::request::{self, HolderQuery, ListQuery};
use super::table::Request;
use super::view::View;
use super::watch;
use super::writer::Command;

/// A lease's attributes take a few hundred bytes.
const BODY_BYTES: usize = 64 << 10;

const JSON: &str = "application/json";
const JSON_LINES: &str = "application/x-ndjson";

/// What the handlers work with.
#[derive(Clone, Debug)]
pub(super) struct Api {
    /// The network config's text, as given.
    pub(super) config: Bytes,
    /// What readers see.
    pub(super) view: Arc<View>,
    /// To the writer.
    pub(super) commands: mpsc::Sender<Command>,
    /// The time.
    pub(super) clock: Clock,
    /// Ends the watches.
    pub(super) shutdown: CancellationToken,
}

type Answer = Result<Response, ErrorAnswer>;

/// All routes.
pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/network/config", get(config))
        .route("/v1/network/leases", get(list).post(acquire))
        .route("/v1/network/leases/{subnet}", put(renew).delete(release))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(api)
}

async fn config(State(api): State<Api>) -> Response {
    text(JSON, api.config)
}

async fn list(State(api): State<Api>, query: Result<Query<ListQuery>, QueryRejection>) -> Answer {
    let Query(query) = query.map_err(|error| wrong_query(&error))?;
    if query.watch {
        return watch_after(&api, &query);
    }
    if query.revision.is_some() || query.store.is_some() {
        let right = "revision and store belong to a watch; add watch=true, or leave them out";
        return Err(ErrorAnswer::invalid("watch", "false", right));
    }
    let Api { view, clock, .. } = api;
    let list = tokio::task::spawn_blocking(move || view.list(clock.now())).await;
    match list {
        Ok(Ok(list)) => Ok(text(JSON, list)),
        Ok(Err(_)) | Err(_) => Err(ErrorAnswer::unavailable()),
    }
}

fn watch_after(api: &Api, query: &ListQuery) -> Answer {
    let Some(revision) = query.revision else {
        let right = "list first, then watch from the list's revision";
        return Err(ErrorAnswer::invalid("revision", "", right));
    };
    if let Some(store) = &query.store
        && store != api.view.store()
    {
        return Err(ErrorAnswer::replaced(store));
    }
    api.view
        .since(revision)
        .map_err(|gone| ErrorAnswer::gone(gone, revision))?;
    let body = watch::body(Arc::clone(&api.view), revision, api.shutdown.clone());
    Ok(text(JSON_LINES, body))
}

async fn acquire(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let body = body.map_err(|error| wrong_body(&error))?;
    let (attrs, previous) = request::acquire(&headers, &body)?;
    ask(&api, Request::Acquire { attrs, previous }).await
}

async fn renew(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<HolderQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let subnet = request::subnet_key(&path.map_err(|error| wrong_path(&error))?)?;
    let Query(query) = query.map_err(|error| wrong_query(&error))?;
    let body = body.map_err(|error| wrong_body(&error))?;
    let attrs = request::attrs(&headers, &body)?;
    // A node whose underlay address changes says which one it had.
    let holder = query.public_ip.unwrap_or(attrs.public_ip);
    let request = Request::Renew {
        subnet,
        holder,
        attrs,
    };
    ask(&api, request).await
}

async fn release(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<HolderQuery>, QueryRejection>,
) -> Answer {
    let subnet = request::subnet_key(&path.map_err(|error| wrong_path(&error))?)?;
    let Query(query) = query.map_err(|error| wrong_query(&error))?;
    let Some(holder) = query.public_ip else {
        let right = "say who holds the lease, as ?public_ip=192.0.2.1";
        return Err(ErrorAnswer::invalid("public_ip", "", right));
    };
    ask(&api, Request::Release { subnet, holder }).await
}

/// Hands a request to the writer; the answer comes when the change is on the disk.
async fn ask(api: &Api, request: Request) -> Answer {
    let (reply, answer) = oneshot::channel();
    let command = Command { request, reply };
    let Ok(()) = api.commands.send(command).await else {
        return Err(ErrorAnswer::unavailable());
    };
    let Ok(answer) = answer.await else {
        return Err(ErrorAnswer::unavailable());
    };
    let lease: Lease = answer?;
    Ok(axum::Json(lease).into_response())
}

async fn unknown(uri: Uri) -> ErrorAnswer {
    let right = "no such resource; there are /v1/network/config and /v1/network/leases";
    ErrorAnswer {
        status: StatusCode::NOT_FOUND,
        ..ErrorAnswer::invalid("path", uri.path(), right)
    }
}

async fn wrong_method(method: Method) -> ErrorAnswer {
    let right = "config takes GET; leases take GET and POST; one lease takes PUT and DELETE";
    ErrorAnswer {
        status: StatusCode::METHOD_NOT_ALLOWED,
        ..ErrorAnswer::invalid("method", method.as_str(), right)
    }
}

fn wrong_query(rejection: &QueryRejection) -> ErrorAnswer {
    ErrorAnswer::invalid("query", "", &rejection.body_text())
}

fn wrong_path(rejection: &PathRejection) -> ErrorAnswer {
    ErrorAnswer::invalid("path", "", &rejection.body_text())
}

fn wrong_body(rejection: &BytesRejection) -> ErrorAnswer {
    ErrorAnswer {
        status: rejection.status(),
        ..ErrorAnswer::invalid(
            "body",
            "",
            &format!("{}; send at most {BODY_BYTES} bytes", rejection.body_text()),
        )
    }
}

fn text(content_type: &'static str, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}
