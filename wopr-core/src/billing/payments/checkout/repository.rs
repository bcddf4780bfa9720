use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;

use crate::billing::payments::pricing::Pack;
use crate::db::DbError;
use crate::db::schema::payments::checkout_sessions as table;
use crate::ids::{CheckoutId, TenantId};

/// A checkout that we started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::billing::payments) struct StoredCheckout {
    pub(in crate::billing::payments) id: CheckoutId,
    pub(in crate::billing::payments) tenant_id: TenantId,
    pub(in crate::billing::payments) credit_cents: i64,
}

pub(in crate::billing::payments) struct CheckoutRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> CheckoutRepository<'c> {
    pub(in crate::billing::payments) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    pub(in crate::billing::payments) async fn insert(
        &mut self,
        at: Timestamp,
        id: CheckoutId,
        tenant: TenantId,
        pack: &Pack,
    ) -> Result<(), DbError> {
        diesel::insert_into(table::table)
            .values((
                table::id.eq(id.as_uuid()),
                table::tenant_id.eq(tenant.as_uuid()),
                table::price_id.eq(&pack.price_id),
                table::charged_cents.eq(pack.charged_cents),
                table::credit_cents.eq(pack.credit_cents),
                table::state.eq("creating"),
                table::created_at.eq(at.to_diesel()),
                table::updated_at.eq(at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    pub(in crate::billing::payments) async fn mark_open(
        &mut self,
        at: Timestamp,
        id: CheckoutId,
        session_id: &str,
    ) -> Result<(), DbError> {
        // Its webhook may have been faster: then only the id is missing.
        diesel::update(table::table.find(id.as_uuid()))
            .set((table::provider_session_id.eq(session_id), table::updated_at.eq(at.to_diesel())))
            .execute(self.conn)
            .await?;
        diesel::update(table::table.find(id.as_uuid()).filter(table::state.eq("creating")))
            .set(table::state.eq("open"))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    pub(in crate::billing::payments) async fn mark_failed(
        &mut self,
        at: Timestamp,
        id: CheckoutId,
    ) -> Result<(), DbError> {
        diesel::update(table::table.find(id.as_uuid()).filter(table::state.eq("creating")))
            .set((table::state.eq("failed"), table::updated_at.eq(at.to_diesel())))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// The checkout behind a session, by the provider's id of it or by ours.
    pub(in crate::billing::payments) async fn find(
        &mut self,
        session_id: &str,
        id: Option<CheckoutId>,
    ) -> Result<Option<StoredCheckout>, DbError> {
        let by_id = id.map_or(uuid::Uuid::nil(), CheckoutId::as_uuid);
        let row: Option<(uuid::Uuid, uuid::Uuid, i64)> = table::table
            .filter(table::provider_session_id.eq(session_id).or(table::id.eq(by_id)))
            .order(table::provider_session_id.asc().nulls_last())
            .select((table::id, table::tenant_id, table::credit_cents))
            .first(self.conn)
            .await
            .optional()?;
        Ok(row.map(|(id, tenant, credit_cents)| StoredCheckout {
            id: CheckoutId::from_uuid(id),
            tenant_id: TenantId::from_uuid(tenant),
            credit_cents,
        }))
    }

    pub(in crate::billing::payments) async fn mark_paid(
        &mut self,
        at: Timestamp,
        id: CheckoutId,
    ) -> Result<(), DbError> {
        diesel::update(table::table.find(id.as_uuid()).filter(table::state.ne("paid")))
            .set((table::state.eq("paid"), table::updated_at.eq(at.to_diesel())))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Ends a session without money; one that was paid stays paid. `false` if it is none of ours.
    pub(in crate::billing::payments) async fn mark_ended(
        &mut self,
        at: Timestamp,
        session_id: &str,
        expired: bool,
    ) -> Result<bool, DbError> {
        let ended = diesel::update(table::table)
            .filter(table::provider_session_id.eq(session_id).and(table::state.ne("paid")))
            .set((table::state.eq(if expired { "expired" } else { "failed" }), table::updated_at.eq(at.to_diesel())))
            .execute(self.conn)
            .await?;
        Ok(ended > 0)
    }
}
