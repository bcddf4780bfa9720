use diesel::dsl::{exists, not};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel;
use uuid::Uuid;

use super::metering::Stored;
use super::model::{INTERRUPTED, Restore, RestorePhase, Snapshot, SnapshotKind, SnapshotState};
use crate::db::DbError;
use crate::db::schema::backup::{backup_leases, restores, snapshots};
use crate::ids::{BotId, RestoreId, SnapshotId, TenantId};

/// The index that keeps a bot from being restored twice at a time.
pub(super) const ONE_RESTORE: &str = "restores_one_at_a_time";

pub(super) type Time = jiff_diesel::Timestamp;

#[derive(Queryable, Selectable)]
#[diesel(table_name = snapshots, check_for_backend(diesel::pg::Pg))]
struct SnapshotRow {
    id: Uuid,
    bot_id: Uuid,
    tenant_id: Uuid,
    kind: String,
    name: Option<String>,
    requested_by: String,
    state: String,
    engine_snapshot: Option<String>,
    size_bytes: Option<i64>,
    added_bytes: Option<i64>,
    error: Option<String>,
    started_at: Time,
    finished_at: Option<Time>,
    expires_at: Option<Time>,
    verified_at: Option<Time>,
    deleted_at: Option<Time>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = restores, check_for_backend(diesel::pg::Pg))]
struct RestoreRow {
    id: Uuid,
    bot_id: Uuid,
    tenant_id: Uuid,
    snapshot_id: Uuid,
    safety_id: Option<Uuid>,
    requested_by: String,
    reason: Option<String>,
    phase: String,
    volume: i32,
    old_volume: Option<i32>,
    error: Option<String>,
    attempts: i32,
    next_attempt_at: Option<Time>,
    created_at: Time,
    switched_at: Option<Time>,
    finished_at: Option<Time>,
}

/// Of this bot, or of any.
fn is_of(bot: Option<BotId>) -> Box<dyn BoxableExpression<snapshots::table, Pg, SqlType = Bool>> {
    match bot {
        Some(bot) => Box::new(snapshots::bot_id.eq(bot.as_uuid())),
        None => Box::new(true.into_sql::<Bool>()),
    }
}

pub(super) fn time(value: Option<Time>) -> Option<Timestamp> {
    value.map(Time::to_jiff)
}

pub(super) fn stored(value: Option<Timestamp>) -> Option<Time> {
    value.map(ToDiesel::to_diesel)
}

fn read_snapshot(row: SnapshotRow) -> Result<Snapshot, DbError> {
    let inconsistent = |detail: &str| DbError::inconsistent("snapshots", format!("{}: {detail}", row.id));
    let count = |value: Option<i64>| value.map(u64::try_from).transpose().map_err(|_| inconsistent("negative"));
    Ok(Snapshot {
        id: SnapshotId::from_uuid(row.id),
        bot_id: BotId::from_uuid(row.bot_id),
        tenant_id: TenantId::from_uuid(row.tenant_id),
        kind: SnapshotKind::from_word(&row.kind).ok_or_else(|| inconsistent("unknown kind"))?,
        state: SnapshotState::from_word(&row.state).ok_or_else(|| inconsistent("unknown state"))?,
        size_bytes: count(row.size_bytes)?,
        added_bytes: count(row.added_bytes)?,
        name: row.name,
        requested_by: row.requested_by,
        engine_snapshot: row.engine_snapshot,
        error: row.error,
        started_at: row.started_at.to_jiff(),
        finished_at: time(row.finished_at),
        expires_at: time(row.expires_at),
        verified_at: time(row.verified_at),
        deleted_at: time(row.deleted_at),
    })
}

fn read_restore(row: RestoreRow) -> Result<Restore, DbError> {
    let inconsistent = |detail: &str| DbError::inconsistent("restores", format!("{}: {detail}", row.id));
    let number = |value: i32| u32::try_from(value).map_err(|_| inconsistent("negative"));
    Ok(Restore {
        id: RestoreId::from_uuid(row.id),
        bot_id: BotId::from_uuid(row.bot_id),
        tenant_id: TenantId::from_uuid(row.tenant_id),
        snapshot_id: SnapshotId::from_uuid(row.snapshot_id),
        safety_id: row.safety_id.map(SnapshotId::from_uuid),
        phase: RestorePhase::from_word(&row.phase).ok_or_else(|| inconsistent("unknown phase"))?,
        volume: number(row.volume)?,
        old_volume: row.old_volume.map(number).transpose()?,
        attempts: number(row.attempts)?,
        requested_by: row.requested_by,
        reason: row.reason,
        error: row.error,
        next_attempt_at: time(row.next_attempt_at),
        created_at: row.created_at.to_jiff(),
        switched_at: time(row.switched_at),
        finished_at: time(row.finished_at),
    })
}

pub(super) fn stored_count(value: Option<u64>) -> Result<Option<i64>, DbError> {
    value.map(|value| i64::try_from(value).map_err(|error| DbError::inconsistent("snapshots", error))).transpose()
}

fn stored_number(value: u32) -> Result<i32, DbError> {
    i32::try_from(value).map_err(|error| DbError::inconsistent("restores", error))
}

pub(super) struct BackupRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> BackupRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Keeps others from adding snapshots of this tenant's until the transaction ends.
    pub(super) async fn lock_tenant(&mut self, tenant: TenantId) -> Result<(), DbError> {
        diesel::sql_query("SELECT pg_advisory_xact_lock(hashtextextended('snapshots:' || $1, 0))")
            .bind::<diesel::sql_types::Text, _>(tenant.to_string())
            .execute(self.conn)
            .await?;
        Ok(())
    }

    pub(super) async fn insert(&mut self, snapshot: &Snapshot) -> Result<(), DbError> {
        diesel::insert_into(snapshots::table)
            .values((
                snapshots::id.eq(snapshot.id.as_uuid()),
                snapshots::bot_id.eq(snapshot.bot_id.as_uuid()),
                snapshots::tenant_id.eq(snapshot.tenant_id.as_uuid()),
                snapshots::kind.eq(snapshot.kind.as_str()),
                snapshots::name.eq(&snapshot.name),
                snapshots::requested_by.eq(&snapshot.requested_by),
                snapshots::state.eq(snapshot.state.as_str()),
                snapshots::started_at.eq(snapshot.started_at.to_diesel()),
                snapshots::expires_at.eq(stored(snapshot.expires_at)),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Writes how far it has got.
    pub(super) async fn save(&mut self, snapshot: &Snapshot) -> Result<(), DbError> {
        diesel::update(snapshots::table.find(snapshot.id.as_uuid()))
            .set((
                snapshots::state.eq(snapshot.state.as_str()),
                snapshots::engine_snapshot.eq(&snapshot.engine_snapshot),
                snapshots::size_bytes.eq(stored_count(snapshot.size_bytes)?),
                snapshots::added_bytes.eq(stored_count(snapshot.added_bytes)?),
                snapshots::error.eq(&snapshot.error),
                snapshots::started_at.eq(snapshot.started_at.to_diesel()),
                snapshots::finished_at.eq(stored(snapshot.finished_at)),
                snapshots::verified_at.eq(stored(snapshot.verified_at)),
                snapshots::deleted_at.eq(stored(snapshot.deleted_at)),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Notes that every byte of it was read. Somebody may have let go of it meanwhile, which this does not undo.
    pub(super) async fn save_verified(&mut self, id: SnapshotId, at: Timestamp) -> Result<(), DbError> {
        diesel::update(snapshots::table.find(id.as_uuid()))
            .set(snapshots::verified_at.eq(at.to_diesel()))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Gives up what nobody is working on any more: whoever calls has the bot's lease.
    pub(super) async fn fail_interrupted(&mut self, bot: BotId, now: Timestamp) -> Result<usize, DbError> {
        let count = diesel::update(snapshots::table.filter(snapshots::bot_id.eq(bot.as_uuid())))
            .filter(snapshots::state.eq(SnapshotState::Creating.as_str()))
            .set((
                snapshots::state.eq(SnapshotState::Failed.as_str()),
                snapshots::error.eq(INTERRUPTED),
                snapshots::finished_at.eq(now.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(count)
    }

    pub(super) async fn find(&mut self, id: SnapshotId) -> Result<Option<Snapshot>, DbError> {
        let row: Option<SnapshotRow> =
            snapshots::table.find(id.as_uuid()).select(SnapshotRow::as_select()).first(self.conn).await.optional()?;
        row.map(read_snapshot).transpose()
    }

    /// Snapshots of one bot in one of these states, the newest first.
    pub(super) async fn list_of(&mut self, bot: BotId, states: &[SnapshotState]) -> Result<Vec<Snapshot>, DbError> {
        let words: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        let rows: Vec<SnapshotRow> = snapshots::table
            .filter(snapshots::bot_id.eq(bot.as_uuid()))
            .filter(snapshots::state.eq_any(words))
            .order((snapshots::started_at.desc(), snapshots::id.desc()))
            .select(SnapshotRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(read_snapshot).collect()
    }

    /// Complete snapshots of a tenant's bots, the newest first.
    pub(super) async fn list_ready_of_tenant(&mut self, tenant: TenantId) -> Result<Vec<Snapshot>, DbError> {
        let rows: Vec<SnapshotRow> = snapshots::table
            .filter(snapshots::tenant_id.eq(tenant.as_uuid()))
            .filter(snapshots::state.eq(SnapshotState::Ready.as_str()))
            .order((snapshots::started_at.desc(), snapshots::id.desc()))
            .select(SnapshotRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(read_snapshot).collect()
    }

    /// How many of a tenant's snapshots made on demand there are or are about to be.
    pub(super) async fn count_on_demand(&mut self, tenant: TenantId) -> Result<u32, DbError> {
        let states = [SnapshotState::Wanted, SnapshotState::Creating, SnapshotState::Ready].map(SnapshotState::as_str);
        let count: i64 = snapshots::table
            .filter(snapshots::tenant_id.eq(tenant.as_uuid()))
            .filter(snapshots::kind.eq(SnapshotKind::OnDemand.as_str()))
            .filter(snapshots::state.eq_any(states))
            .count()
            .get_result(self.conn)
            .await?;
        u32::try_from(count).map_err(|error| DbError::inconsistent("snapshots", error))
    }

    /// Snapshots that somebody wants, the longest wanted first.
    pub(super) async fn list_wanted(&mut self, limit: i64) -> Result<Vec<Snapshot>, DbError> {
        let rows: Vec<SnapshotRow> = snapshots::table
            .filter(snapshots::state.eq(SnapshotState::Wanted.as_str()))
            .order(snapshots::started_at)
            .limit(limit)
            .select(SnapshotRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(read_snapshot).collect()
    }

    /// The last attempt at a snapshot of this bot or of each, whatever became of it.
    pub(super) async fn list_last_attempts(&mut self, bot: Option<BotId>) -> Result<Vec<Snapshot>, DbError> {
        let rows: Vec<SnapshotRow> = snapshots::table
            .filter(is_of(bot))
            .filter(snapshots::state.ne(SnapshotState::Wanted.as_str()))
            .distinct_on(snapshots::bot_id)
            .order((snapshots::bot_id, snapshots::started_at.desc(), snapshots::id.desc()))
            .select(SnapshotRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(read_snapshot).collect()
    }

    /// The last complete snapshot of this bot or of each.
    pub(super) async fn list_last_successes(&mut self, bot: Option<BotId>) -> Result<Vec<Snapshot>, DbError> {
        let rows: Vec<SnapshotRow> = snapshots::table
            .filter(is_of(bot))
            .filter(snapshots::state.eq(SnapshotState::Ready.as_str()))
            .distinct_on(snapshots::bot_id)
            .order((snapshots::bot_id, snapshots::started_at.desc(), snapshots::id.desc()))
            .select(SnapshotRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(read_snapshot).collect()
    }

    /// When the last complete nightly snapshot of this bot or of each was begun.
    pub(super) async fn list_last_nights(&mut self, bot: Option<BotId>) -> Result<Vec<(BotId, Timestamp)>, DbError> {
        let rows: Vec<(Uuid, Option<Time>)> = snapshots::table
            .filter(is_of(bot))
            .filter(snapshots::kind.eq(SnapshotKind::Nightly.as_str()))
            .filter(snapshots::state.eq(SnapshotState::Ready.as_str()))
            .group_by(snapshots::bot_id)
            .select((snapshots::bot_id, diesel::dsl::max(snapshots::started_at)))
            .load(self.conn)
            .await?;
        let read = |(bot, at): (Uuid, Option<Time>)| Some((BotId::from_uuid(bot), at?.to_jiff()));
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// Snapshots of a bot that a restore needs which is under way.
    pub(super) async fn list_being_restored(&mut self, bot: BotId) -> Result<Vec<SnapshotId>, DbError> {
        let rows: Vec<(Uuid, Option<Uuid>)> = restores::table
            .filter(restores::bot_id.eq(bot.as_uuid()))
            .filter(restores::finished_at.is_null())
            .select((restores::snapshot_id, restores::safety_id))
            .load(self.conn)
            .await?;
        let ids = rows.into_iter().flat_map(|(snapshot, safety)| [Some(snapshot), safety]);
        Ok(ids.flatten().map(SnapshotId::from_uuid).collect())
    }

    /// How many snapshots of each bot were completed, and when one was last read back.
    pub(super) async fn list_totals(&mut self) -> Result<Vec<(BotId, u32, Option<Timestamp>)>, DbError> {
        let rows: Vec<(Uuid, i64, Option<Time>)> = snapshots::table
            .filter(snapshots::state.eq_any(
                [SnapshotState::Ready, SnapshotState::Deleting, SnapshotState::Deleted].map(SnapshotState::as_str),
            ))
            .group_by(snapshots::bot_id)
            .select((snapshots::bot_id, diesel::dsl::count_star(), diesel::dsl::max(snapshots::verified_at)))
            .load(self.conn)
            .await?;
        rows.into_iter()
            .map(|(bot, count, verified)| {
                let count = u32::try_from(count).map_err(|error| DbError::inconsistent("snapshots", error))?;
                Ok((BotId::from_uuid(bot), count, time(verified)))
            })
            .collect()
    }

    /// Snapshots made on demand that were there after that.
    pub(super) async fn list_stored_on_demand(&mut self, after: Timestamp) -> Result<Vec<Stored>, DbError> {
        let rows: Vec<SnapshotRow> = snapshots::table
            .filter(snapshots::kind.eq(SnapshotKind::OnDemand.as_str()))
            .filter(snapshots::size_bytes.is_not_null().and(snapshots::finished_at.is_not_null()))
            .filter(snapshots::deleted_at.is_null().or(snapshots::deleted_at.gt(after.to_diesel())))
            .select(SnapshotRow::as_select())
            .load(self.conn)
            .await?;
        let rows = rows.into_iter().map(read_snapshot).collect::<Result<Vec<_>, _>>()?;
        let stored = |row: Snapshot| {
            Some(Stored { tenant: row.tenant_id, bytes: row.size_bytes?, from: row.finished_at?, to: row.deleted_at })
        };
        Ok(rows.into_iter().filter_map(stored).collect())
    }

    /// Bots with something in their repositories.
    pub(super) async fn list_bots_with_bytes(&mut self) -> Result<Vec<BotId>, DbError> {
        let ids: Vec<Uuid> = snapshots::table
            .filter(snapshots::state.eq_any([SnapshotState::Ready, SnapshotState::Deleting].map(SnapshotState::as_str)))
            .select(snapshots::bot_id)
            .distinct()
            .load(self.conn)
            .await?;
        Ok(ids.into_iter().map(BotId::from_uuid).collect())
    }

    pub(super) async fn insert_restore(&mut self, restore: &Restore) -> Result<(), DbError> {
        diesel::insert_into(restores::table)
            .values((
                restores::id.eq(restore.id.as_uuid()),
                restores::bot_id.eq(restore.bot_id.as_uuid()),
                restores::tenant_id.eq(restore.tenant_id.as_uuid()),
                restores::snapshot_id.eq(restore.snapshot_id.as_uuid()),
                restores::requested_by.eq(&restore.requested_by),
                restores::reason.eq(&restore.reason),
                restores::phase.eq(restore.phase.as_str()),
                restores::volume.eq(stored_number(restore.volume)?),
                restores::next_attempt_at.eq(stored(restore.next_attempt_at)),
                restores::created_at.eq(restore.created_at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Writes how far it has got.
    pub(super) async fn save_restore(&mut self, restore: &Restore) -> Result<(), DbError> {
        diesel::update(restores::table.find(restore.id.as_uuid()))
            .set((
                restores::safety_id.eq(restore.safety_id.map(SnapshotId::as_uuid)),
                restores::phase.eq(restore.phase.as_str()),
                restores::old_volume.eq(restore.old_volume.map(stored_number).transpose()?),
                restores::error.eq(&restore.error),
                restores::attempts.eq(stored_number(restore.attempts)?),
                restores::next_attempt_at.eq(stored(restore.next_attempt_at)),
                restores::switched_at.eq(stored(restore.switched_at)),
                restores::finished_at.eq(stored(restore.finished_at)),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    pub(super) async fn find_restore(&mut self, id: RestoreId) -> Result<Option<Restore>, DbError> {
        let row: Option<RestoreRow> =
            restores::table.find(id.as_uuid()).select(RestoreRow::as_select()).first(self.conn).await.optional()?;
        row.map(read_restore).transpose()
    }

    /// The highest number that any volume of the bot was given by a restore.
    pub(super) async fn last_volume(&mut self, bot: BotId) -> Result<u32, DbError> {
        let last: Option<i32> = restores::table
            .filter(restores::bot_id.eq(bot.as_uuid()))
            .select(diesel::dsl::max(restores::volume))
            .first(self.conn)
            .await?;
        u32::try_from(last.unwrap_or(0)).map_err(|error| DbError::inconsistent("restores", error))
    }

    /// Whether the bot's data is on its way: not in its place yet, and nothing has failed so far.
    pub(super) async fn is_returning(&mut self, bot: BotId) -> Result<bool, DbError> {
        let under_way = restores::table
            .filter(restores::bot_id.eq(bot.as_uuid()))
            .filter(restores::finished_at.is_null())
            .filter(restores::switched_at.is_null())
            .filter(restores::error.is_null());
        Ok(diesel::select(exists(under_way)).get_result(self.conn).await?)
    }

    /// Restores to go on with now, the longest due first.
    pub(super) async fn list_due_restores(&mut self, now: Timestamp, limit: i64) -> Result<Vec<RestoreId>, DbError> {
        let ids: Vec<Uuid> = restores::table
            .filter(restores::next_attempt_at.le(now.to_diesel()))
            .order(restores::next_attempt_at)
            .limit(limit)
            .select(restores::id)
            .load(self.conn)
            .await?;
        Ok(ids.into_iter().map(RestoreId::from_uuid).collect())
    }

    /// Attempts at restoring a tenant's bots, the newest first.
    pub(super) async fn list_restores(&mut self, tenant: TenantId, limit: i64) -> Result<Vec<Restore>, DbError> {
        let rows: Vec<RestoreRow> = restores::table
            .filter(restores::tenant_id.eq(tenant.as_uuid()))
            .order((restores::created_at.desc(), restores::id.desc()))
            .limit(limit)
            .select(RestoreRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(read_restore).collect()
    }

    /// Restores that ended before then and whose bot's former volume is still there.
    pub(super) async fn list_with_old_volume(&mut self, before: Timestamp) -> Result<Vec<Restore>, DbError> {
        let rows: Vec<RestoreRow> = restores::table
            .filter(restores::old_volume.is_not_null())
            .filter(restores::finished_at.lt(before.to_diesel()))
            .select(RestoreRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(read_restore).collect()
    }

    /// When a restore of each bot last came to a good end.
    pub(super) async fn list_last_restores(&mut self) -> Result<Vec<(BotId, Option<Timestamp>)>, DbError> {
        let rows: Vec<(Uuid, Option<Time>)> = restores::table
            .filter(restores::phase.eq(RestorePhase::Done.as_str()))
            .group_by(restores::bot_id)
            .select((restores::bot_id, diesel::dsl::max(restores::finished_at)))
            .load(self.conn)
            .await?;
        Ok(rows.into_iter().map(|(bot, at)| (BotId::from_uuid(bot), time(at))).collect())
    }

    /// Takes the bot's repository for `owner` unless somebody else has it.
    pub(super) async fn lease(
        &mut self,
        bot: BotId,
        owner: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, DbError> {
        let taken = diesel::sql_query(
            "INSERT INTO backup_leases (bot_id, owner, lease_until) VALUES ($1, $2, $3)
             ON CONFLICT (bot_id) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until
             WHERE backup_leases.owner = excluded.owner OR backup_leases.lease_until <= $4",
        )
        .bind::<diesel::sql_types::Uuid, _>(bot.as_uuid())
        .bind::<diesel::sql_types::Uuid, _>(owner)
        .bind::<diesel::sql_types::Timestamptz, _>(until.to_diesel())
        .bind::<diesel::sql_types::Timestamptz, _>(now.to_diesel())
        .execute(self.conn)
        .await?;
        Ok(taken == 1)
    }

    /// Gives the bot's repository back.
    pub(super) async fn release(&mut self, bot: BotId, owner: Uuid) -> Result<(), DbError> {
        diesel::delete(backup_leases::table.find(bot.as_uuid()).filter(backup_leases::owner.eq(owner)))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Whether somebody else than `owner` may have the bot's repository by now.
    pub(super) async fn has_lost(&mut self, bot: BotId, owner: Uuid) -> Result<bool, DbError> {
        let held = backup_leases::table.find(bot.as_uuid()).filter(backup_leases::owner.eq(owner));
        Ok(diesel::select(not(exists(held))).get_result(self.conn).await?)
    }
}
