use axum::http::StatusCode;
use wopr_core::backup::{BackupError, JobError};

use super::{ApiError, Issue};

/// Where customers buy credit, as clients know it.
const BUY_URL: &str = "/dashboard/credits";

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Off => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "NOT_CONFIGURED",
                "Backups are off: S3_BUCKET and its keys are not configured",
            ),
            BackupError::NoBot(_) => Self::not_found("Bot not found"),
            BackupError::NoSnapshot(_) => Self::not_found("Snapshot not found"),
            BackupError::Invalid { field, rule } => Self::invalid_input(vec![Issue::field(field, rule)]),
            BackupError::NotReady(_) => Self::conflict("The snapshot is not complete").code("NOT_READY"),
            BackupError::NotOnDemand(_) => Self::forbidden("Only snapshots made on demand are deleted by hand"),
            BackupError::NoCredit { balance } => {
                let balance = balance.as_cents_floor();
                Self::new(StatusCode::PAYMENT_REQUIRED, "PAYMENT_REQUIRED", "Insufficient credits")
                    .detail("balance", balance)
                    .detail("buyUrl", BUY_URL)
                    .contract_body(serde_json::json!({
                        "error": "insufficient_credits", "balance": balance, "buyUrl": BUY_URL,
                    }))
            }
            BackupError::Quota { current, max, tier } => {
                Self::forbidden("As many snapshots as the plan has room for exist already")
                    .code("SNAPSHOT_QUOTA_EXCEEDED")
                    .contract_body(serde_json::json!({
                        "error": "snapshot_quota_exceeded", "current": current, "max": max, "tier": tier.as_str(),
                    }))
            }
            BackupError::RestoreUnderWay(_) => {
                Self::conflict("The bot is being restored already").code("RESTORE_UNDER_WAY")
            }
            BackupError::Busy(_) => Self::unavailable("The bot's backups are being worked on"),
            BackupError::NoSet(_) | BackupError::NoBase(_) => Self::not_found("Backup not found"),
            BackupError::DatabaseBusy => Self::unavailable("The database's backups are being worked on"),
            BackupError::Job(error) => job(error),
            BackupError::Fleet(error) => error.into(),
            BackupError::Billing(error) => error.into(),
            BackupError::Storage(error) => error.into(),
        }
    }
}

fn job(error: JobError) -> ApiError {
    if error.is_transient() {
        return ApiError::unavailable("Backups cannot be reached at the moment").because(error);
    }
    ApiError::new(StatusCode::BAD_GATEWAY, "BACKUP_FAILED", "The backup could not be worked with").because(error)
}
