//! The HTTPS routes beside gRPC: health, readiness, metrics.

use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::registry::Registry;
use crate::scans::Scans;
use crate::store::{Health, Store};
use crate::uplink::Hub;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;

/// Every route, for the authorization table's coverage test.
pub const ROUTES: &[&str] = &["/healthz", "/readyz", "/metrics"];

/// What the routes need.
pub struct HttpState {
    /// For readiness.
    pub store: Store,
    /// For the satellites' gauges.
    pub registry: Arc<Registry>,
    /// For the satellites' gauges.
    pub hub: Arc<Hub>,
    /// For the scans' gauge.
    pub scans: Arc<Scans>,
    /// For the policy's gauges.
    pub policies: Arc<Policies>,
    /// The counters.
    pub metrics: Arc<Metrics>,
}

/// The routes; who may call them is the authorization table's business.
pub fn router(state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state)
}

async fn ready(State(state): State<Arc<HttpState>>) -> impl IntoResponse {
    match state.store.health() {
        Health::Good => (StatusCode::OK, "ready\n"),
        Health::Full { .. } => (StatusCode::SERVICE_UNAVAILABLE, "the store's disk is nearly full\n"),
        Health::Failed { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "the store takes no writes; see the server's log\n")
        }
    }
}

async fn metrics(State(state): State<Arc<HttpState>>) -> impl IntoResponse {
    let statuses = state.hub.count(&state.registry.list());
    state.metrics.set_gauges(&statuses, state.scans.running(), state.store.size_on_disk());
    let compiled = state.policies.compiled();
    state.metrics.set_policy(compiled.version, compiled.checks.len());
    match state.metrics.encode() {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
    }
}
