use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::ApiError;
use crate::extract::Json;
use crate::state::{AppState, NotReady};

/// The name this service has always had.
pub(super) const SERVICE: &str = "wopr-platform";

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(ready))
}

/// A sign of life.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    status: &'static str,
    service: &'static str,
}

/// `GET /health`: the process runs.
#[utoipa::path(get, path = "/health", responses((status = OK, body = Health)), security(()))]
async fn health() -> Json<Health> {
    Json(Health { status: "ok", service: SERVICE })
}

/// `GET /health/ready`: the process may be sent traffic.
#[utoipa::path(
    get,
    path = "/health/ready",
    responses((status = OK, body = Health), (status = SERVICE_UNAVAILABLE, description = "It may not; `code` says why")),
    security(())
)]
async fn ready(State(state): State<AppState>) -> Result<Json<Health>, ApiError> {
    match state.readiness.check(&state).await {
        Ok(()) => Ok(Json(Health { status: "ready", service: SERVICE })),
        Err(NotReady::Draining) => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "DRAINING", "The process is shutting down"))
        }
        Err(NotReady::SchemaBehind(pending)) => {
            let message = "The database schema is behind this release; run `wopr-api migrate`";
            Err(ApiError::unavailable(message).code("SCHEMA_BEHIND").detail("pending", pending))
        }
        Err(NotReady::Database(error)) => Err(ApiError::from(error)),
    }
}
