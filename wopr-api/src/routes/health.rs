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
    #[serde(skip_serializing_if = "Option::is_none")]
    backups: Option<BackupHealth>,
}

/// How it stands with backups.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct BackupHealth {
    /// Bots whose last attempt failed, or whose last snapshot is older than a day.
    stale_count: usize,
    /// Bots.
    total_tracked: usize,
}

/// `GET /health`: the process runs. It is degraded while a bot's backups are stale, and says nothing of them when they are
/// off or the database is away.
#[utoipa::path(get, path = "/health", responses((status = OK, body = Health)), security(()))]
async fn health(State(state): State<AppState>) -> Json<Health> {
    let backups = state.backups.summary().await.unwrap_or_else(|error| {
        tracing::info!("how it stands with backups is not known: {error}");
        None
    });
    let backups = backups.map(|summary| BackupHealth { stale_count: summary.stale, total_tracked: summary.bots });
    let degraded = backups.as_ref().is_some_and(|backups| backups.stale_count > 0);
    Json(Health { status: if degraded { "degraded" } else { "ok" }, service: SERVICE, backups })
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
        Ok(()) => Ok(Json(Health { status: "ready", service: SERVICE, backups: None })),
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
