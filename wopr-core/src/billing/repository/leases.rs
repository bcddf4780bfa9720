use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use super::refusal;
use crate::billing::BillingError;
use crate::db::DbError;
use crate::db::schema::billing::{credit_leases, wallets};
use crate::ids::{LeaseHolder, TenantId};
use crate::money::Money;

/// Every method that changes leases wants their wallets locked first, in the order of their ids.
pub(in crate::billing) struct LeaseRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> LeaseRepository<'c> {
    pub(in crate::billing) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Puts `amount` more into a lease, out of what is available.
    pub(in crate::billing) async fn grant(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        holder: LeaseHolder,
        amount: Money,
    ) -> Result<(), BillingError> {
        diesel::insert_into(credit_leases::table)
            .values((
                credit_leases::tenant_id.eq(tenant.as_uuid()),
                credit_leases::holder.eq(holder.as_uuid()),
                credit_leases::left_nanos.eq(0),
                credit_leases::renewed_at.eq(at.to_diesel()),
            ))
            .on_conflict_do_nothing()
            .execute(self.conn)
            .await
            .map_err(DbError::from)?;
        diesel::update(credit_leases::table.find((tenant.as_uuid(), holder.as_uuid())))
            .set((
                credit_leases::left_nanos.eq(credit_leases::left_nanos + amount.as_nanos()),
                credit_leases::renewed_at.eq(at.to_diesel()),
            ))
            .execute(self.conn)
            .await
            .map_err(|error| refusal(error, [tenant]))?;
        Ok(())
    }

    /// Takes amounts out of one holder's leases; never more than is in them.
    pub(in crate::billing) async fn take(
        &mut self,
        at: Timestamp,
        holder: LeaseHolder,
        amounts: &[(TenantId, Money)],
    ) -> Result<(), DbError> {
        diesel::sql_query(
            "UPDATE credit_leases SET left_nanos = greatest(left_nanos - taken.nanos, 0), renewed_at = $4
             FROM unnest($2::uuid[], $3::bigint[]) AS taken (tenant, nanos)
             WHERE tenant_id = taken.tenant AND holder = $1",
        )
        .bind::<SqlUuid, _>(holder.as_uuid())
        .bind::<Array<SqlUuid>, _>(amounts.iter().map(|(tenant, _)| tenant.as_uuid()).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(amounts.iter().map(|(_, amount)| amount.as_nanos()).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(at.to_diesel())
        .execute(self.conn)
        .await?;
        Ok(())
    }

    /// Sets the time of everything that the holder has.
    pub(in crate::billing) async fn renew(&mut self, at: Timestamp, holder: LeaseHolder) -> Result<(), DbError> {
        diesel::update(credit_leases::table)
            .filter(credit_leases::holder.eq(holder.as_uuid()))
            .filter(credit_leases::left_nanos.gt(0))
            .set(credit_leases::renewed_at.eq(at.to_diesel()))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Locks the wallets of the tenants that have something leased to `holder`, or, without one, leased by anybody and not
    /// renewed since `before`; answers them.
    pub(in crate::billing) async fn lock_leased(
        &mut self,
        holder: Option<LeaseHolder>,
        before: Timestamp,
        limit: i64,
    ) -> Result<Vec<TenantId>, DbError> {
        let mut leased = credit_leases::table
            .filter(credit_leases::left_nanos.gt(0))
            .filter(credit_leases::renewed_at.le(before.to_diesel()))
            .select(credit_leases::tenant_id)
            .into_boxed();
        if let Some(holder) = holder {
            leased = leased.filter(credit_leases::holder.eq(holder.as_uuid()));
        }
        let leased: Vec<Uuid> = leased.limit(limit).load(self.conn).await?;
        let locked: Vec<Uuid> = wallets::table
            .filter(wallets::tenant_id.eq_any(leased))
            .order(wallets::tenant_id)
            .select(wallets::tenant_id)
            .for_no_key_update()
            .load(self.conn)
            .await?;
        Ok(locked.into_iter().map(TenantId::from_uuid).collect())
    }

    /// Gives back all that is left in those leases.
    pub(in crate::billing) async fn release(
        &mut self,
        at: Timestamp,
        holder: Option<LeaseHolder>,
        before: Timestamp,
        tenants: &[TenantId],
    ) -> Result<usize, DbError> {
        let tenants: Vec<Uuid> = tenants.iter().map(|tenant| tenant.as_uuid()).collect();
        let leased = credit_leases::tenant_id
            .eq_any(tenants)
            .and(credit_leases::left_nanos.gt(0))
            .and(credit_leases::renewed_at.le(before.to_diesel()));
        let values = (credit_leases::left_nanos.eq(0), credit_leases::renewed_at.eq(at.to_diesel()));
        let released = match holder {
            Some(holder) => {
                let own = leased.and(credit_leases::holder.eq(holder.as_uuid()));
                diesel::update(credit_leases::table.filter(own)).set(values).execute(self.conn).await?
            }
            None => diesel::update(credit_leases::table.filter(leased)).set(values).execute(self.conn).await?,
        };
        Ok(released)
    }
}
