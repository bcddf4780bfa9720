use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use crate::audit::Actor;
use crate::billing::standing::{Standing, StandingRecord, SuspensionReason};
use crate::db::DbError;
use crate::db::schema::billing::{account_standing_changes, account_standings, wallets};
use crate::ids::TenantId;

pub(in crate::billing) struct StandingRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = account_standings)]
struct StandingRow {
    tenant_id: Uuid,
    state: String,
    reason: Option<String>,
    grace_until: Option<jiff_diesel::Timestamp>,
    delete_after: Option<jiff_diesel::Timestamp>,
    since: jiff_diesel::Timestamp,
    changed_by: String,
}

impl TryFrom<StandingRow> for StandingRecord {
    type Error = DbError;

    fn try_from(row: StandingRow) -> Result<Self, DbError> {
        let delete_after = row.delete_after.map(jiff_diesel::Timestamp::to_jiff);
        let suspension = row.reason.as_deref().and_then(SuspensionReason::from_word);
        let standing = match (row.state.as_str(), row.grace_until, delete_after, suspension) {
            ("active", None, None, _) => Standing::Active,
            ("grace", Some(until), None, _) => Standing::Grace { until: until.to_jiff() },
            ("suspended", None, delete_after, Some(reason)) => Standing::Suspended { reason, delete_after },
            ("banned", None, Some(delete_after), _) => Standing::Banned { delete_after },
            ("destroying", None, None, _) => Standing::Destroying,
            (state, ..) => {
                let detail = format!("{} does not fit {state}", row.tenant_id);
                return Err(DbError::inconsistent("account_standings", detail));
            }
        };
        Ok(Self { standing, since: Some(row.since.to_jiff()), changed_by: Some(row.changed_by) })
    }
}

/// The stored form: reason, end of grace, date of deletion.
fn columns(standing: Standing, before: Standing) -> (Option<&'static str>, Option<Timestamp>, Option<Timestamp>) {
    match standing {
        Standing::Active => (None, None, None),
        Standing::Grace { until } => (Some("credits"), Some(until), None),
        Standing::Suspended { reason, delete_after } => (Some(reason.as_str()), None, delete_after),
        Standing::Banned { delete_after } => (Some("ban"), None, Some(delete_after)),
        // Keeps the reason it comes from.
        Standing::Destroying => {
            (Some(if matches!(before, Standing::Banned { .. }) { "ban" } else { "credits" }), None, None)
        }
    }
}

impl<'c> StandingRepository<'c> {
    pub(in crate::billing) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// The tenant's standing; active if nothing was ever recorded.
    pub(in crate::billing) async fn get(&mut self, tenant: TenantId) -> Result<StandingRecord, DbError> {
        let row: Option<StandingRow> = account_standings::table
            .find(tenant.as_uuid())
            .select(StandingRow::as_select())
            .first(self.conn)
            .await
            .optional()?;
        row.map_or(Ok(StandingRecord::default()), StandingRecord::try_from)
    }

    /// As [`Self::get`], and nobody else changes it until the transaction ends.
    pub(in crate::billing) async fn lock(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
    ) -> Result<StandingRecord, DbError> {
        diesel::insert_into(account_standings::table)
            .values((
                account_standings::tenant_id.eq(tenant.as_uuid()),
                account_standings::state.eq("active"),
                account_standings::since.eq(at.to_diesel()),
                account_standings::changed_by.eq("system"),
            ))
            .on_conflict_do_nothing()
            .execute(self.conn)
            .await?;
        let row: StandingRow = account_standings::table
            .find(tenant.as_uuid())
            .select(StandingRow::as_select())
            .for_update()
            .first(self.conn)
            .await?;
        row.try_into()
    }

    /// Writes a transition of a locked standing, and its history.
    pub(in crate::billing) async fn save(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        (from, to): (Standing, Standing),
        actor: &Actor,
        note: Option<&str>,
    ) -> Result<(), DbError> {
        let (reason, grace_until, delete_after) = columns(to, from);
        diesel::update(account_standings::table.find(tenant.as_uuid()))
            .set((
                account_standings::state.eq(to.name()),
                account_standings::reason.eq(reason),
                account_standings::grace_until.eq(grace_until.map(jiff_diesel::ToDiesel::to_diesel)),
                account_standings::delete_after.eq(delete_after.map(jiff_diesel::ToDiesel::to_diesel)),
                account_standings::since.eq(at.to_diesel()),
                account_standings::changed_by.eq(actor.name()),
            ))
            .execute(self.conn)
            .await?;
        diesel::insert_into(account_standing_changes::table)
            .values((
                account_standing_changes::tenant_id.eq(tenant.as_uuid()),
                account_standing_changes::from_state.eq(from.name()),
                account_standing_changes::to_state.eq(to.name()),
                account_standing_changes::reason.eq(reason),
                account_standing_changes::note.eq(note),
                account_standing_changes::actor_kind.eq(actor.kind()),
                account_standing_changes::actor.eq(actor.name()),
                account_standing_changes::at.eq(at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Of `tenants`, those that lack of credit has limited and that have credit now.
    pub(in crate::billing) async fn list_refilled(&mut self, tenants: &[TenantId]) -> Result<Vec<TenantId>, DbError> {
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.as_uuid()).collect();
        let positive = wallets::table
            .filter(wallets::balance_nanos.gt(0))
            .select(wallets::tenant_id)
            .into_boxed::<diesel::pg::Pg>();
        let limited: Vec<Uuid> = account_standings::table
            .filter(account_standings::tenant_id.eq_any(ids))
            .filter(account_standings::tenant_id.eq_any(positive))
            .filter(account_standings::reason.eq("credits"))
            .filter(account_standings::state.eq_any(["grace", "suspended"]))
            .order(account_standings::tenant_id)
            .select(account_standings::tenant_id)
            .load(self.conn)
            .await?;
        Ok(limited.into_iter().map(TenantId::from_uuid).collect())
    }

    /// Tenants for whom time has something in store, a batch of them.
    pub(in crate::billing) async fn list_due(&mut self, at: Timestamp) -> Result<Vec<TenantId>, DbError> {
        let due: Vec<Uuid> = account_standings::table
            .filter(
                account_standings::grace_until
                    .le(at.to_diesel())
                    .or(account_standings::delete_after.le(at.to_diesel())),
            )
            .order(account_standings::tenant_id)
            .limit(200)
            .select(account_standings::tenant_id)
            .load(self.conn)
            .await?;
        Ok(due.into_iter().map(TenantId::from_uuid).collect())
    }
}
