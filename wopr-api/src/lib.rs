//! The WOPR server: the auth wire, the tRPC wire, REST and webhooks over [`wopr_core`].
//!
//! [`app`] makes the router from an [`AppState`]; everything else serves it.

pub mod config;
mod decimal;
pub mod error;
pub mod extract;
mod gateway;
mod metrics;
pub mod pipeline;
pub mod routes;
mod state;

pub mod telemetry;
pub mod trpc;
pub mod workers;

use std::sync::Arc;

use axum::Router;

pub use self::state::{Adapters, AppState, AssemblyError, NotReady, Readiness};

/// The whole server as one service.
pub fn app(state: AppState) -> Router {
    let procedures = Arc::new(routes::procedures());
    let (rest, description) = routes::rest();
    let router = rest.merge(trpc::router(procedures)).merge(routes::description(description));
    pipeline::around(router, &state).merge(gateway::router()).merge(metrics::router()).with_state(state)
}
