//! Health over HTTP, in flannel's words (flannel 0.28.9, `main.go`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{future::Future, io};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::any;
use thiserror::Error;
use tokio::net::TcpListener;
use tracing::info;

/// Whether the node is as it should be; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says so.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// Asks.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
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
    ready: Readiness,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<impl Future<Output = io::Result<()>> + Send + 'static, ListenError> {
    let listener = TcpListener::bind(SocketAddr::new(ip, port))
        .await
        .map_err(|source| ListenError { ip, port, source })?;
    info!(%ip, port, "health is told");
    Ok(async move {
        axum::serve(listener, router(ready))
            .with_graceful_shutdown(stop)
            .await
    })
}

fn router(ready: Readiness) -> Router {
    Router::new()
        .route("/healthz", any(|| async { "flanneld is running" }))
        .route("/readyz", any(readyz))
        .with_state(ready)
}

async fn readyz(State(ready): State<Readiness>) -> (StatusCode, &'static str) {
    if ready.get() {
        (StatusCode::OK, "flanneld is ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "flanneld is not ready yet")
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

    #[tokio::test]
    async fn the_answers_are_flannel_s() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ready = Readiness::default();
        let app = router(ready.clone());
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
        assert_eq!(ask(port, "/other").await.0, 404);
        server.abort();
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let ip = "127.0.0.1".parse().unwrap();
        let error = serve(ip, port, Readiness::default(), async {})
            .await
            .err()
            .unwrap();
        let text = error.to_string();
        assert!(text.contains(&format!("--healthz-port {port}")), "{text}");
    }
}
