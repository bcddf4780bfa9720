use jiff::Timestamp;
use serde::Serialize;
use wopr_core::backup::{
    ArchiveStatus, BackupStatus, BaseBackup, DatabaseSet, DatabaseStatus, PLATFORM, Restore, RestorePhase, Snapshot,
    SnapshotKind,
};
use wopr_core::fleet::container::container_name;

use crate::decimal::Decimal;

/// Bytes in mebibytes, to two decimals.
type Mebibytes = Decimal<2>;

fn mib(bytes: u64) -> Mebibytes {
    Decimal(i64::try_from(bytes.saturating_mul(100) / (1024 * 1024)).unwrap_or(i64::MAX))
}

/// A snapshot, for whoever owns the bot.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SnapshotView {
    id: String,
    tenant: String,
    instance_id: String,
    /// Who wanted it, if that was a person.
    user_id: Option<String>,
    name: Option<String>,
    /// `nightly`, `hot`, `on-demand` or `pre-restore`.
    r#type: &'static str,
    /// `wanted`, `creating` or `ready`.
    state: &'static str,
    /// `manual` or `scheduled`.
    trigger: &'static str,
    /// How operators name it.
    storage_path: String,
    #[schema(value_type = f64)]
    size_mb: Mebibytes,
    size_bytes: Option<u64>,
    created_at: String,
    /// Milliseconds since 1970.
    expires_at: Option<i64>,
    deleted_at: Option<i64>,
}

impl From<&Snapshot> for SnapshotView {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            id: snapshot.id.to_string(),
            tenant: snapshot.tenant_id.to_string(),
            instance_id: snapshot.bot_id.to_string(),
            user_id: snapshot.requested_by.strip_prefix("user:").map(str::to_owned),
            name: snapshot.name.clone(),
            r#type: snapshot.kind.as_str(),
            state: snapshot.state.as_str(),
            trigger: match snapshot.kind {
                SnapshotKind::OnDemand => "manual",
                SnapshotKind::PreUpdate => "pre_update",
                SnapshotKind::Nightly | SnapshotKind::Hot | SnapshotKind::PreRestore => "scheduled",
            },
            storage_path: snapshot.path(),
            size_mb: mib(snapshot.size_bytes.unwrap_or(0)),
            size_bytes: snapshot.size_bytes,
            created_at: snapshot.started_at.to_string(),
            expires_at: snapshot.expires_at.map(Timestamp::as_millisecond),
            deleted_at: snapshot.deleted_at.map(Timestamp::as_millisecond),
        }
    }
}

/// How it stands with a bot's or the database's backups, for operators.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackupView {
    container_id: String,
    node_id: &'static str,
    last_backup_at: Option<String>,
    #[schema(value_type = Option<f64>)]
    last_backup_size_mb: Option<Mebibytes>,
    last_backup_path: Option<String>,
    last_backup_success: bool,
    last_backup_error: Option<String>,
    /// When the last attempt began, whatever became of it.
    last_attempt_at: Option<String>,
    /// When a snapshot was last read back to its last byte, or restored.
    last_proven_at: Option<String>,
    total_backups: u32,
    created_at: String,
    updated_at: String,
    is_stale: bool,
    /// Of the database, where it archives its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<ArchiveView>,
}

/// How it stands with the archive of the database's log, which brings back any instant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchiveView {
    /// The last copy of the database's files.
    last_backup_path: Option<String>,
    last_success_at: Option<String>,
    last_attempt_at: Option<String>,
    last_error: Option<String>,
    /// When all of it was last read back, or a copy brought to an instant in another database.
    last_proven_at: Option<String>,
    /// What was not as it was when all of it was last read back.
    verify_error: Option<String>,
    /// When the archive last took a piece of the log.
    log_archived_at: Option<String>,
    /// It refused the last piece, and has taken none for a quarter of an hour.
    is_log_stuck: bool,
}

impl ArchiveView {
    fn new(status: &ArchiveStatus, now: Timestamp) -> Self {
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            last_backup_path: status.last_success.as_ref().and_then(BaseBackup::path),
            last_success_at: text(status.last_success_at()),
            last_attempt_at: text(status.last_attempt_at),
            last_error: status.last_error.clone(),
            last_proven_at: text(status.last_proven_at),
            verify_error: status.verify_error.clone(),
            log_archived_at: text(status.logged_at),
            is_log_stuck: status.is_log_stuck(now),
        }
    }
}

impl BackupView {
    pub(super) fn of_database(status: &DatabaseStatus, now: Timestamp) -> Self {
        let finished = status.last_success_at();
        let updated = [finished, status.last_attempt_at, status.last_proven_at].into_iter().flatten().max();
        Self {
            container_id: PLATFORM.to_owned(),
            node_id: wopr_core::backup::NODE,
            last_backup_at: finished.map(|at| at.to_string()),
            last_backup_size_mb: status.last_success.as_ref().and_then(|set| set.size_bytes).map(mib),
            last_backup_path: status.last_success.as_ref().map(DatabaseSet::path),
            last_backup_success: finished.is_some() && status.last_error.is_none(),
            last_backup_error: status.last_error.clone(),
            last_attempt_at: status.last_attempt_at.map(|at| at.to_string()),
            last_proven_at: status.last_proven_at.map(|at| at.to_string()),
            total_backups: status.total,
            created_at: status.since.to_string(),
            updated_at: updated.unwrap_or(status.since).to_string(),
            is_stale: status.is_stale(now),
            archive: status.archive.as_ref().map(|archive| ArchiveView::new(archive, now)),
        }
    }

    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    pub(super) fn new(status: &BackupStatus, now: Timestamp) -> Self {
        let success = status.last_success.as_ref();
        let finished = success.and_then(|snapshot| snapshot.finished_at);
        let updated = [finished, status.last_attempt_at, status.last_proven_at].into_iter().flatten().max();
        Self {
            container_id: container_name(status.bot_id),
            node_id: wopr_core::backup::NODE,
            last_backup_at: finished.map(|at| at.to_string()),
            last_backup_size_mb: success.and_then(|snapshot| snapshot.size_bytes).map(mib),
            last_backup_path: success.map(Snapshot::path),
            last_backup_success: success.is_some() && status.last_error.is_none(),
            last_backup_error: status.last_error.clone(),
            last_attempt_at: status.last_attempt_at.map(|at| at.to_string()),
            last_proven_at: status.last_proven_at.map(|at| at.to_string()),
            total_backups: status.total,
            created_at: status.bot_created_at.to_string(),
            updated_at: updated.unwrap_or(status.bot_created_at).to_string(),
            is_stale: status.is_stale(now),
            archive: None,
        }
    }
}

/// A bot, or the database, with whose backups something is wrong.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Alert {
    container_id: String,
    node_id: &'static str,
    last_backup_at: Option<String>,
    last_backup_success: bool,
    last_backup_error: Option<String>,
}

impl From<BackupView> for Alert {
    fn from(view: BackupView) -> Self {
        Self {
            container_id: view.container_id,
            node_id: view.node_id,
            last_backup_at: view.last_backup_at,
            last_backup_success: view.last_backup_success,
            last_backup_error: view.last_backup_error,
        }
    }
}

/// Something that can be restored.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Archive {
    path: String,
    date: String,
    #[schema(value_type = f64)]
    size_mb: Mebibytes,
    /// What the repository calls it: `wopr-backup` and restic find it by that.
    snapshot: Option<String>,
}

impl From<&DatabaseSet> for Archive {
    fn from(set: &DatabaseSet) -> Self {
        Self {
            path: set.path(),
            date: set.started_at.to_string(),
            size_mb: mib(set.size_bytes.unwrap_or(0)),
            snapshot: set.engine_snapshot.clone(),
        }
    }
}

impl From<&Snapshot> for Archive {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            path: snapshot.path(),
            date: snapshot.started_at.to_string(),
            size_mb: mib(snapshot.size_bytes.unwrap_or(0)),
            snapshot: snapshot.engine_snapshot.clone(),
        }
    }
}

/// How a restore ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RestoreOutcome {
    success: bool,
    restore_log_id: String,
    pre_restore_key: Option<String>,
    snapshot_key: String,
    /// From when the bot was given the new volume until it was well.
    downtime_ms: i64,
    error: Option<String>,
}

impl RestoreOutcome {
    pub(super) fn new(restore: &Restore, snapshot_key: String, pre_restore_key: Option<String>) -> Self {
        Self {
            success: restore.phase == RestorePhase::Done,
            restore_log_id: restore.id.to_string(),
            pre_restore_key,
            snapshot_key,
            downtime_ms: downtime_ms(restore),
            error: restore.error.clone(),
        }
    }
}

fn downtime_ms(restore: &Restore) -> i64 {
    let (Some(from), Some(to)) = (restore.switched_at, restore.finished_at) else { return 0 };
    to.as_millisecond() - from.as_millisecond()
}

/// An attempt at a restore, for the history.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RestoreEntry {
    id: String,
    tenant: String,
    instance_id: String,
    snapshot_key: Option<String>,
    pre_restore_key: Option<String>,
    /// Seconds since 1970: when it ended, or when it was wanted if it has not.
    restored_at: i64,
    restored_by: String,
    reason: Option<String>,
    /// `saving`, `filling`, `switching`, `done` or `failed`.
    phase: &'static str,
    error: Option<String>,
    downtime_ms: i64,
}

impl RestoreEntry {
    pub(super) fn new(restore: &Restore, snapshot_key: Option<String>, pre_restore_key: Option<String>) -> Self {
        Self {
            id: restore.id.to_string(),
            tenant: restore.tenant_id.to_string(),
            instance_id: restore.bot_id.to_string(),
            snapshot_key,
            pre_restore_key,
            restored_at: restore.finished_at.unwrap_or(restore.created_at).as_second(),
            restored_by: restore.requested_by.clone(),
            reason: restore.reason.clone(),
            phase: restore.phase.as_str(),
            error: restore.error.clone(),
            downtime_ms: downtime_ms(restore),
        }
    }
}
