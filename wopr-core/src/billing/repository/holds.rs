use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use super::refusal;
use crate::billing::BillingError;
use crate::billing::hold::{Hold, HoldState};
use crate::db::DbError;
use crate::db::schema::billing::credit_holds;
use crate::ids::{HoldId, TenantId};
use crate::money::Money;

/// How many holds one statement expires.
const EXPIRY_BATCH: i64 = 500;

pub(in crate::billing) struct HoldRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = credit_holds)]
struct HoldRow {
    id: Uuid,
    tenant_id: Uuid,
    reference_key: String,
    held_nanos: i64,
    state: String,
    actual_nanos: Option<i64>,
    overrun_nanos: Option<i64>,
    opened_at: jiff_diesel::Timestamp,
    expires_at: jiff_diesel::Timestamp,
    ended_at: Option<jiff_diesel::Timestamp>,
}

impl From<&Hold> for HoldRow {
    fn from(hold: &Hold) -> Self {
        let (actual, overrun, ended_at) = match hold.state {
            HoldState::Open => (None, None, None),
            HoldState::Settled { actual, overrun, at } => (Some(actual), Some(overrun), Some(at)),
            HoldState::Voided { at } | HoldState::Expired { at } => (None, None, Some(at)),
        };
        Self {
            id: hold.id.as_uuid(),
            tenant_id: hold.tenant_id.as_uuid(),
            reference_key: hold.reference_key.clone(),
            held_nanos: hold.held.as_nanos(),
            state: hold.state.name().to_owned(),
            actual_nanos: actual.map(Money::as_nanos),
            overrun_nanos: overrun.map(Money::as_nanos),
            opened_at: hold.opened_at.to_diesel(),
            expires_at: hold.expires_at.to_diesel(),
            ended_at: ended_at.map(jiff_diesel::ToDiesel::to_diesel),
        }
    }
}

impl TryFrom<HoldRow> for Hold {
    type Error = DbError;

    fn try_from(row: HoldRow) -> Result<Self, DbError> {
        let ended = row.ended_at.map(jiff_diesel::Timestamp::to_jiff);
        let state = match (row.state.as_str(), row.actual_nanos, row.overrun_nanos, ended) {
            ("open", None, None, None) => HoldState::Open,
            ("settled", Some(actual), Some(overrun), Some(at)) => {
                HoldState::Settled { actual: Money::from_nanos(actual), overrun: Money::from_nanos(overrun), at }
            }
            ("voided", None, None, Some(at)) => HoldState::Voided { at },
            ("expired", None, None, Some(at)) => HoldState::Expired { at },
            (state, ..) => {
                return Err(DbError::inconsistent("credit_holds", format!("{} does not fit {state}", row.id)));
            }
        };
        Ok(Self {
            id: HoldId::from_uuid(row.id),
            tenant_id: TenantId::from_uuid(row.tenant_id),
            reference_key: row.reference_key,
            held: Money::from_nanos(row.held_nanos),
            opened_at: row.opened_at.to_jiff(),
            expires_at: row.expires_at.to_jiff(),
            state,
        })
    }
}

impl<'c> HoldRepository<'c> {
    pub(in crate::billing) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Inserts the hold and answers it, or answers the one that has its key.
    pub(in crate::billing) async fn open(&mut self, hold: Hold) -> Result<Hold, BillingError> {
        let inserted = diesel::insert_into(credit_holds::table)
            .values(HoldRow::from(&hold))
            .on_conflict(credit_holds::reference_key)
            .do_nothing()
            .execute(self.conn)
            .await
            .map_err(|error| refusal(error, [hold.tenant_id]))?;
        if inserted == 1 {
            return Ok(hold);
        }
        let row: HoldRow = credit_holds::table
            .filter(credit_holds::reference_key.eq(&hold.reference_key))
            .select(HoldRow::as_select())
            .first(self.conn)
            .await
            .map_err(DbError::from)?;
        let found = Hold::try_from(row)?;
        if (found.tenant_id, found.held) != (hold.tenant_id, hold.held) {
            return Err(BillingError::KeyConflict { reference_key: hold.reference_key });
        }
        Ok(found)
    }

    /// Reads one of the tenant's holds and locks its row until the transaction ends.
    pub(in crate::billing) async fn find_for_update(
        &mut self,
        tenant_id: TenantId,
        id: HoldId,
    ) -> Result<Option<Hold>, DbError> {
        let row: Option<HoldRow> = credit_holds::table
            .find(id.as_uuid())
            .filter(credit_holds::tenant_id.eq(tenant_id.as_uuid()))
            .select(HoldRow::as_select())
            .for_update()
            .first(self.conn)
            .await
            .optional()?;
        row.map(Hold::try_from).transpose()
    }

    /// Writes where the hold is in its life.
    pub(in crate::billing) async fn save(&mut self, hold: &Hold) -> Result<(), DbError> {
        let row = HoldRow::from(hold);
        diesel::update(credit_holds::table.find(row.id))
            .set((
                credit_holds::state.eq(row.state),
                credit_holds::actual_nanos.eq(row.actual_nanos),
                credit_holds::overrun_nanos.eq(row.overrun_nanos),
                credit_holds::expires_at.eq(row.expires_at),
                credit_holds::ended_at.eq(row.ended_at),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Expires a batch of what is due; holds that are just being ended are left alone.
    pub(in crate::billing) async fn expire_due(&mut self, at: Timestamp) -> Result<usize, DbError> {
        let due: Vec<Uuid> = credit_holds::table
            .filter(credit_holds::state.eq("open"))
            .filter(credit_holds::expires_at.le(at.to_diesel()))
            .order(credit_holds::expires_at)
            .limit(EXPIRY_BATCH)
            .select(credit_holds::id)
            .for_update()
            .skip_locked()
            .load(self.conn)
            .await?;
        let expired = diesel::update(credit_holds::table.filter(credit_holds::id.eq_any(due)))
            .set((credit_holds::state.eq("expired"), credit_holds::ended_at.eq(at.to_diesel())))
            .execute(self.conn)
            .await?;
        Ok(expired)
    }
}
