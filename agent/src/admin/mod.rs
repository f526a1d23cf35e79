//! Health over HTTP, in flannel's words (flannel 0.28.9, `main.go`), and metrics beside it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{future::Future, io};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tracing::{error, info};

/// What `/metrics` says it answers with.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the node is as it should be; clones share it.
///
/// It has to be said again and again: of an agent that hangs nobody knows.
#[derive(Clone, Debug)]
pub struct Readiness {
    said: Arc<Mutex<Option<Instant>>>,
    good_for: Duration,
}

impl Readiness {
    /// Not ready; what is said later is good for this long.
    pub fn new(good_for: Duration) -> Self {
        Self {
            said: Arc::default(),
            good_for,
        }
    }

    /// Says so.
    pub fn set(&self, ready: bool) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        *said = ready.then(Instant::now);
    }

    /// Asks.
    pub fn get(&self) -> bool {
        let said = *self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.is_some_and(|said| said.elapsed() < self.good_for)
    }
}

/// Writes the metrics when somebody asks for them; may block for a while.
pub type Exposition = Arc<dyn Fn() -> String + Send + Sync>;

/// What is told.
#[derive(Clone)]
pub struct Told {
    /// For `/readyz`.
    pub ready: Readiness,
    /// For `/metrics`.
    pub metrics: Exposition,
}

/// Why there is no health listener.
#[derive(Debug, Error)]
#[error("listen on --healthz-ip {ip} and --healthz-port {port}")]
pub struct ListenError {
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Listens, and gives what answers until `stop` is done.
pub async fn serve(
    ip: IpAddr,
    port: u16,
    told: Told,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<impl Future<Output = io::Result<()>> + Send + 'static, ListenError> {
    let listener = TcpListener::bind(SocketAddr::new(ip, port))
        .await
        .map_err(|source| ListenError { ip, port, source })?;
    info!(%ip, port, "health and metrics are told");
    Ok(async move {
        axum::serve(listener, router(told))
            .with_graceful_shutdown(stop)
            .await
    })
}

fn router(told: Told) -> Router {
    Router::new()
        .route("/healthz", any(|| async { "flanneld is running" }))
        .route("/readyz", any(readyz))
        .route("/metrics", get(metrics))
        .with_state(told)
}

async fn readyz(State(told): State<Told>) -> (StatusCode, &'static str) {
    if told.ready.get() {
        (StatusCode::OK, "flanneld is ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "flanneld is not ready yet")
    }
}

async fn metrics(State(told): State<Told>) -> Response {
    // Maps are read one entry after the other: nothing for a thread that others wait for.
    let text = tokio::task::spawn_blocking(move || (told.metrics)()).await;
    match text {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            error!(%error, "metrics could not be read");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(port: u16, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}"))
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    fn told() -> Told {
        Told {
            ready: Readiness::new(Duration::from_mins(1)),
            metrics: Arc::new(|| "one 1\n# EOF\n".to_owned()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_that_is_not_repeated_is_good_for_a_while() {
        let ready = Readiness::new(Duration::from_secs(30));
        assert!(!ready.get());
        ready.set(true);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(ready.get());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!ready.get());
        ready.set(true);
        assert!(ready.get());
        ready.set(false);
        assert!(!ready.get());
    }

    #[tokio::test]
    async fn the_answers_are_flannel_s() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = told();
        let ready = told.ready.clone();
        let app = router(told);
        let server = tokio::spawn(async move { axum::serve(listener, app).await });

        let not_yet = (503, "flanneld is not ready yet".to_owned());
        assert_eq!(ask(port, "/readyz").await, not_yet);
        ready.set(true);
        let yes = (200, "flanneld is ready".to_owned());
        assert_eq!(ask(port, "/readyz").await, yes);
        ready.set(false);
        assert_eq!(ask(port, "/readyz").await, not_yet);
        let running = (200, "flanneld is running".to_owned());
        assert_eq!(ask(port, "/healthz").await, running);
        let metrics = (200, "one 1\n# EOF\n".to_owned());
        assert_eq!(ask(port, "/metrics").await, metrics);
        assert_eq!(ask(port, "/other").await.0, 404);
        server.abort();
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let ip = "127.0.0.1".parse().unwrap();
        let error = serve(ip, port, told(), async {}).await.err().unwrap();
        let text = error.to_string();
        assert!(text.contains(&format!("--healthz-port {port}")), "{text}");
    }
}
