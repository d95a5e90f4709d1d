//! The operator's own pages: `/metrics`, `/healthz`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::metrics::Metrics;

/// How this process is, as its pages tell it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    /// Milliseconds from `begun` to the last beat of the loop.
    beat_ms: AtomicU64,
    ready: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Inner {
            begun: Instant::now(),
            beat_ms: AtomicU64::new(0),
            ready: AtomicBool::new(false),
        }))
    }
}

impl Health {
    /// The loop turns.
    pub fn beat(&self) {
        let since = self.0.begun.elapsed().as_millis();
        self.0
            .beat_ms
            .store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// This process acts, or stands by to act.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    /// Since when the loop has been still.
    fn still(&self) -> Duration {
        let beat = Duration::from_millis(self.0.beat_ms.load(Ordering::Relaxed));
        self.0.begun.elapsed().saturating_sub(beat)
    }
}

/// Opens the port, so that a wrong address ends the start with words.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves the pages until the process ends.
pub async fn serve(listener: TcpListener, metrics: Metrics, health: Health) -> std::io::Result<()> {
    let pages = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state((metrics, health));
    axum::serve(listener, pages).await
}

async fn metrics_page(State((metrics, _)): State<(Metrics, Health)>) -> Response {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn healthz(State((_, health)): State<(Metrics, Health)>) -> Response {
    let still = health.still();
    if still < STILL_MAX {
        return "ok\n".into_response();
    }
    let words = format!("the loop has not turned for {} s\n", still.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, words).into_response()
}

async fn readyz(State((_, health)): State<(Metrics, Health)>) -> Response {
    if health.is_ready() {
        return "ok\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the API server has not been read yet\n",
    )
        .into_response()
}

const STILL_MAX: Duration = Duration::from_secs(60);
