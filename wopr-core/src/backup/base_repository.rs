use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel;
use uuid::Uuid;

use super::model::{BaseBackup, History, INTERRUPTED, SnapshotState};
use super::repository::{Time, stored, stored_count, time};
use crate::db::DbError;
use crate::db::schema::backup::base_backups;
use crate::ids::BaseBackupId;

#[derive(Queryable, Selectable)]
#[diesel(table_name = base_backups, check_for_backend(diesel::pg::Pg))]
struct BaseRow {
    id: Uuid,
    cluster: i64,
    timeline: i32,
    state: String,
    label: Option<String>,
    size_bytes: Option<i64>,
    added_bytes: Option<i64>,
    error: Option<String>,
    started_at: Time,
    finished_at: Option<Time>,
    verified_at: Option<Time>,
    verify_error: Option<String>,
    restored_at: Option<Time>,
}

#[derive(QueryableByName)]
struct HistoryRow {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    system_identifier: i64,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    timeline_id: i32,
}

#[derive(QueryableByName)]
struct ArchiverRow {
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Timestamptz>)]
    stats_reset: Option<Time>,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Timestamptz>)]
    last_archived_time: Option<Time>,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Timestamptz>)]
    last_failed_time: Option<Time>,
}

fn read(row: BaseRow) -> Result<BaseBackup, DbError> {
    let inconsistent = |detail: &str| DbError::inconsistent("base_backups", format!("{}: {detail}", row.id));
    let count = |value: Option<i64>| value.map(u64::try_from).transpose().map_err(|_| inconsistent("negative"));
    Ok(BaseBackup {
        id: BaseBackupId::from_uuid(row.id),
        history: History { cluster: row.cluster, timeline: row.timeline },
        state: SnapshotState::from_word(&row.state).ok_or_else(|| inconsistent("unknown state"))?,
        size_bytes: count(row.size_bytes)?,
        added_bytes: count(row.added_bytes)?,
        label: row.label,
        error: row.error,
        started_at: row.started_at.to_jiff(),
        finished_at: time(row.finished_at),
        verified_at: time(row.verified_at),
        verify_error: row.verify_error,
        restored_at: time(row.restored_at),
    })
}

/// What the database counts of its log.
pub(super) struct Archiver {
    /// When a piece of it was last archived.
    pub(super) archived_at: Option<Timestamp>,
    /// When one could last not be.
    pub(super) refused_at: Option<Timestamp>,
    /// Since when that is counted.
    pub(super) since: Option<Timestamp>,
}

pub(crate) struct BaseRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> BaseRepository<'c> {
    pub(crate) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Writes how far it has got. When it was read back or restored is told by [`Self::save_verified`] and
    /// [`Self::save_restored`].
    pub(super) async fn save(&mut self, base: &BaseBackup) -> Result<(), DbError> {
        let values = (
            base_backups::cluster.eq(base.history.cluster),
            base_backups::timeline.eq(base.history.timeline),
            base_backups::state.eq(base.state.as_str()),
            base_backups::label.eq(&base.label),
            base_backups::size_bytes.eq(stored_count(base.size_bytes)?),
            base_backups::added_bytes.eq(stored_count(base.added_bytes)?),
            base_backups::error.eq(&base.error),
            base_backups::started_at.eq(base.started_at.to_diesel()),
            base_backups::finished_at.eq(stored(base.finished_at)),
        );
        diesel::insert_into(base_backups::table)
            .values((base_backups::id.eq(base.id.as_uuid()), values))
            .on_conflict(base_backups::id)
            .do_update()
            .set(values)
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Writes that the archive was read back, and what was not as it was.
    pub(super) async fn save_verified(
        &mut self,
        id: BaseBackupId,
        at: Timestamp,
        error: Option<&str>,
    ) -> Result<(), DbError> {
        diesel::update(base_backups::table.find(id.as_uuid()))
            .set((base_backups::verified_at.eq(at.to_diesel()), base_backups::verify_error.eq(error)))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Forgets attempts that failed before that.
    pub(super) async fn delete_failed(&mut self, before: Timestamp) -> Result<usize, DbError> {
        let failed = base_backups::table
            .filter(base_backups::state.eq(SnapshotState::Failed.as_str()))
            .filter(base_backups::started_at.lt(before.to_diesel()));
        Ok(diesel::delete(failed).execute(self.conn).await?)
    }

    /// Answers whether there is such a complete copy.
    pub(super) async fn save_restored(&mut self, id: BaseBackupId, at: Timestamp) -> Result<bool, DbError> {
        let count = diesel::update(base_backups::table.find(id.as_uuid()))
            .filter(base_backups::state.eq(SnapshotState::Ready.as_str()))
            .set(base_backups::restored_at.eq(at.to_diesel()))
            .execute(self.conn)
            .await?;
        Ok(count == 1)
    }

    /// Gives up what nobody is working on any more: whoever calls has the lease.
    pub(super) async fn fail_interrupted(&mut self, now: Timestamp) -> Result<usize, DbError> {
        let count = diesel::update(base_backups::table)
            .filter(base_backups::state.eq(SnapshotState::Creating.as_str()))
            .set((
                base_backups::state.eq(SnapshotState::Failed.as_str()),
                base_backups::error.eq(INTERRUPTED),
                base_backups::finished_at.eq(now.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(count)
    }

    /// All there were, the newest first.
    pub(super) async fn list(&mut self) -> Result<Vec<BaseBackup>, DbError> {
        let rows: Vec<BaseRow> = base_backups::table
            .order((base_backups::started_at.desc(), base_backups::id.desc()))
            .select(BaseRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(read).collect()
    }

    /// Which database this is.
    pub(crate) async fn find_history(&mut self) -> Result<History, DbError> {
        let query = "SELECT system_identifier, timeline_id FROM pg_control_system(), pg_control_checkpoint()";
        let row: HistoryRow = diesel::sql_query(query).get_result(self.conn).await?;
        Ok(History { cluster: row.system_identifier, timeline: row.timeline_id })
    }

    /// What the database counts of its log.
    pub(super) async fn find_archived(&mut self) -> Result<Archiver, DbError> {
        let query = "SELECT last_archived_time, last_failed_time, stats_reset FROM pg_stat_archiver";
        let row: ArchiverRow = diesel::sql_query(query).get_result(self.conn).await?;
        Ok(Archiver {
            archived_at: time(row.last_archived_time),
            refused_at: time(row.last_failed_time),
            since: time(row.stats_reset),
        })
    }
}
