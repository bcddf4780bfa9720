use diesel::dsl::{exists, not};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel;
use uuid::Uuid;

use super::groups::Table;
use super::model::{DatabaseSet, INTERRUPTED, SnapshotKind, SnapshotState};
use super::repository::{Time, stored, stored_count, time};
use crate::db::DbError;
use crate::db::schema::backup::{database_set_lease, database_sets};
use crate::ids::DatabaseSetId;

#[derive(Queryable, Selectable)]
#[diesel(table_name = database_sets, check_for_backend(diesel::pg::Pg))]
struct SetRow {
    id: Uuid,
    kind: String,
    requested_by: String,
    state: String,
    engine_snapshot: Option<String>,
    size_bytes: Option<i64>,
    added_bytes: Option<i64>,
    error: Option<String>,
    started_at: Time,
    finished_at: Option<Time>,
    verified_at: Option<Time>,
    restored_at: Option<Time>,
    deleted_at: Option<Time>,
}

#[derive(QueryableByName)]
struct TableRow {
    #[diesel(sql_type = diesel::sql_types::Text)]
    full_name: String,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    name: Option<String>,
}

fn read(row: SetRow) -> Result<DatabaseSet, DbError> {
    let inconsistent = |detail: &str| DbError::inconsistent("database_sets", format!("{}: {detail}", row.id));
    let count = |value: Option<i64>| value.map(u64::try_from).transpose().map_err(|_| inconsistent("negative"));
    Ok(DatabaseSet {
        id: DatabaseSetId::from_uuid(row.id),
        kind: SnapshotKind::from_word(&row.kind).ok_or_else(|| inconsistent("unknown kind"))?,
        state: SnapshotState::from_word(&row.state).ok_or_else(|| inconsistent("unknown state"))?,
        size_bytes: count(row.size_bytes)?,
        added_bytes: count(row.added_bytes)?,
        requested_by: row.requested_by,
        engine_snapshot: row.engine_snapshot,
        error: row.error,
        started_at: row.started_at.to_jiff(),
        finished_at: time(row.finished_at),
        verified_at: time(row.verified_at),
        restored_at: time(row.restored_at),
        deleted_at: time(row.deleted_at),
    })
}

/// What is known of all sets together.
pub(super) struct SetTotals {
    /// How many were completed.
    pub(super) count: i64,
    /// When the first attempt began.
    pub(super) first_at: Option<Timestamp>,
    /// When one was last read back, or restored.
    pub(super) proven_at: Option<Timestamp>,
}

pub(super) struct SetRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> SetRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Every table of the database that is not the system's or an extension's. Not their partitions: those come and go, and
    /// are saved with the whole.
    pub(super) async fn list_tables(&mut self) -> Result<Vec<Table>, DbError> {
        let rows: Vec<TableRow> = diesel::sql_query(
            "SELECT format('%I.%I', n.nspname, c.relname) AS full_name,
                    CASE WHEN n.nspname = current_schema() THEN c.relname::text END AS name
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT IN ('pg_catalog', 'information_schema')
               AND n.nspname NOT LIKE 'pg\\_temp%' AND n.nspname NOT LIKE 'pg\\_toast%'
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
             ORDER BY 1",
        )
        .load(self.conn)
        .await?;
        Ok(rows.into_iter().map(|row| Table { full_name: row.full_name, name: row.name }).collect())
    }

    pub(super) async fn insert(&mut self, set: &DatabaseSet) -> Result<(), DbError> {
        diesel::insert_into(database_sets::table)
            .values((
                database_sets::id.eq(set.id.as_uuid()),
                database_sets::kind.eq(set.kind.as_str()),
                database_sets::requested_by.eq(&set.requested_by),
                database_sets::state.eq(set.state.as_str()),
                database_sets::started_at.eq(set.started_at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Writes how far it has got. When it was read back or restored is told by [`Self::save_verified`] and
    /// [`Self::save_restored`].
    pub(super) async fn save(&mut self, set: &DatabaseSet) -> Result<(), DbError> {
        diesel::update(database_sets::table.find(set.id.as_uuid()))
            .set((
                database_sets::state.eq(set.state.as_str()),
                database_sets::engine_snapshot.eq(&set.engine_snapshot),
                database_sets::size_bytes.eq(stored_count(set.size_bytes)?),
                database_sets::added_bytes.eq(stored_count(set.added_bytes)?),
                database_sets::error.eq(&set.error),
                database_sets::started_at.eq(set.started_at.to_diesel()),
                database_sets::finished_at.eq(stored(set.finished_at)),
                database_sets::deleted_at.eq(stored(set.deleted_at)),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    pub(super) async fn save_verified(&mut self, id: DatabaseSetId, at: Timestamp) -> Result<(), DbError> {
        diesel::update(database_sets::table.find(id.as_uuid()))
            .set(database_sets::verified_at.eq(at.to_diesel()))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Answers whether there is such a complete set.
    pub(super) async fn save_restored(&mut self, id: DatabaseSetId, at: Timestamp) -> Result<bool, DbError> {
        let count = diesel::update(database_sets::table.find(id.as_uuid()))
            .filter(database_sets::state.eq(SnapshotState::Ready.as_str()))
            .set(database_sets::restored_at.eq(at.to_diesel()))
            .execute(self.conn)
            .await?;
        Ok(count == 1)
    }

    /// Gives up what nobody is working on any more: whoever calls has the lease.
    pub(super) async fn fail_interrupted(&mut self, now: Timestamp) -> Result<usize, DbError> {
        let count = diesel::update(database_sets::table)
            .filter(database_sets::state.eq(SnapshotState::Creating.as_str()))
            .set((
                database_sets::state.eq(SnapshotState::Failed.as_str()),
                database_sets::error.eq(INTERRUPTED),
                database_sets::finished_at.eq(now.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(count)
    }

    /// Sets in one of these states, the newest first.
    pub(super) async fn list(&mut self, states: &[SnapshotState]) -> Result<Vec<DatabaseSet>, DbError> {
        let words: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        let rows: Vec<SetRow> = database_sets::table
            .filter(database_sets::state.eq_any(words))
            .order((database_sets::started_at.desc(), database_sets::id.desc()))
            .select(SetRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(read).collect()
    }

    /// The set that somebody has wanted for the longest time.
    pub(super) async fn find_wanted(&mut self) -> Result<Option<DatabaseSet>, DbError> {
        let row: Option<SetRow> = database_sets::table
            .filter(database_sets::state.eq(SnapshotState::Wanted.as_str()))
            .order((database_sets::started_at, database_sets::id))
            .select(SetRow::as_select())
            .first(self.conn)
            .await
            .optional()?;
        row.map(read).transpose()
    }

    /// The last attempt, whatever became of it.
    pub(super) async fn find_last_attempt(&mut self) -> Result<Option<DatabaseSet>, DbError> {
        let row: Option<SetRow> = database_sets::table
            .filter(database_sets::state.ne(SnapshotState::Wanted.as_str()))
            .order((database_sets::started_at.desc(), database_sets::id.desc()))
            .select(SetRow::as_select())
            .first(self.conn)
            .await
            .optional()?;
        row.map(read).transpose()
    }

    /// The last complete set.
    pub(super) async fn find_last_success(&mut self) -> Result<Option<DatabaseSet>, DbError> {
        Ok(self.list(&[SnapshotState::Ready]).await?.into_iter().next())
    }

    /// When the last complete nightly set was begun.
    pub(super) async fn last_night(&mut self) -> Result<Option<Timestamp>, DbError> {
        let at: Option<Time> = database_sets::table
            .filter(database_sets::kind.eq(SnapshotKind::Nightly.as_str()))
            .filter(database_sets::state.eq(SnapshotState::Ready.as_str()))
            .select(diesel::dsl::max(database_sets::started_at))
            .first(self.conn)
            .await?;
        Ok(time(at))
    }

    pub(super) async fn totals(&mut self) -> Result<SetTotals, DbError> {
        use diesel::dsl::{count_star, max, min};
        let states = [SnapshotState::Ready, SnapshotState::Deleting, SnapshotState::Deleted];
        let (count, verified, restored): (i64, Option<Time>, Option<Time>) = database_sets::table
            .filter(database_sets::state.eq_any(states.map(SnapshotState::as_str)))
            .select((count_star(), max(database_sets::verified_at), max(database_sets::restored_at)))
            .first(self.conn)
            .await?;
        let first: Option<Time> = database_sets::table.select(min(database_sets::started_at)).first(self.conn).await?;
        Ok(SetTotals { count, first_at: time(first), proven_at: time(verified).max(time(restored)) })
    }

    /// Takes the platform's repository for `owner` unless somebody else has it.
    pub(super) async fn lease(&mut self, owner: Uuid, now: Timestamp, until: Timestamp) -> Result<bool, DbError> {
        let taken = diesel::sql_query(
            "INSERT INTO database_set_lease (only_one, owner, lease_until) VALUES (true, $1, $2)
             ON CONFLICT (only_one) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until
             WHERE database_set_lease.owner = excluded.owner OR database_set_lease.lease_until <= $3",
        )
        .bind::<diesel::sql_types::Uuid, _>(owner)
        .bind::<diesel::sql_types::Timestamptz, _>(until.to_diesel())
        .bind::<diesel::sql_types::Timestamptz, _>(now.to_diesel())
        .execute(self.conn)
        .await?;
        Ok(taken == 1)
    }

    /// Gives the platform's repository back.
    pub(super) async fn release(&mut self, owner: Uuid) -> Result<(), DbError> {
        diesel::delete(database_set_lease::table.filter(database_set_lease::owner.eq(owner)))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Whether somebody else than `owner` may have the platform's repository by now.
    pub(super) async fn has_lost(&mut self, owner: Uuid) -> Result<bool, DbError> {
        let held = database_set_lease::table.filter(database_set_lease::owner.eq(owner));
        Ok(diesel::select(not(exists(held))).get_result(self.conn).await?)
    }
}
