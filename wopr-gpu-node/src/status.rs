//! The daemon's own port: how it is, and what it counts.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::agent::Node;
use crate::metrics;

pub(crate) fn router(node: Arc<Node>, prometheus: Option<PrometheusHandle>) -> Router {
    let shown = get(|State(node): State<Arc<Node>>| async move { show(&node, prometheus.as_ref()) });
    Router::new().route("/health", get(health)).route("/metrics", shown).with_state(node)
}

/// Good as long as the heartbeats go on, whatever becomes of the services: those have doors of their own.
async fn health(State(node): State<Arc<Node>>) -> Response {
    let alive = node.is_alive();
    let status = if alive { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = match (alive, node.draining.is_cancelled()) {
        (_, true) => "draining",
        (true, false) => "ok",
        (false, false) => "stuck",
    };
    let known = node.heartbeat();
    let stage = *node.stage.borrow();
    let body = json!({
        "status": word, "nodeId": known.node_id, "version": known.agent_version, "stage": stage,
        "services": known.services, "gpu": known.gpu,
    });
    (status, Json(body)).into_response()
}

fn show(node: &Node, prometheus: Option<&PrometheusHandle>) -> Response {
    let Some(prometheus) = prometheus else {
        return (StatusCode::NOT_FOUND, "this process counts nothing\n").into_response();
    };
    let now = node.uptime.now();
    for (service, known) in node.board.borrow().iter() {
        metrics::condition(*service, known, now);
    }
    metrics::gpu(&node.monitor.mode());
    prometheus.run_upkeep();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], prometheus.render()).into_response()
}
