use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wopr_core::backup::Summary;

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
    /// Bots whose last attempt failed or whose last snapshot is older than a day, and the database if that is so with it.
    stale_count: usize,
    /// Bots, and the database.
    total_tracked: usize,
    database: DatabaseHealth,
}

/// How it stands with the copies of the database.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct DatabaseHealth {
    /// When the last attempt began, whatever became of it.
    last_attempt_at: Option<String>,
    /// When the last one that succeeded ended.
    last_success_at: Option<String>,
    /// When one was last read back to its last byte, or restored.
    last_proven_at: Option<String>,
    /// When the archive last took a piece of its log, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_archived_at: Option<String>,
}

impl From<Summary> for BackupHealth {
    fn from(summary: Summary) -> Self {
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            stale_count: summary.stale,
            total_tracked: summary.tracked,
            database: DatabaseHealth {
                last_attempt_at: text(summary.database.last_attempt_at),
                last_success_at: text(summary.database.last_success_at()),
                last_proven_at: text(summary.database.last_proven_at),
                log_archived_at: text(summary.database.archive.as_ref().and_then(|archive| archive.logged_at)),
            },
        }
    }
}

/// `GET /health`: the process runs. It is degraded while a bot's or the database's backups are stale, and says nothing of
/// them when they are off or the database is away.
#[utoipa::path(get, path = "/health", responses((status = OK, body = Health)), security(()))]
async fn health(State(state): State<AppState>) -> Json<Health> {
    let backups = state.backups.summary().await.unwrap_or_else(|error| {
        tracing::info!("how it stands with backups is not known: {error}");
        None
    });
    let backups = backups.map(BackupHealth::from);
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
