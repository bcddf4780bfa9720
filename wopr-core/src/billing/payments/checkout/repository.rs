use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;

use crate::billing::payments::ports::NewCheckout;
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

/// A checkout of which it is not known whether the provider has made its page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::billing::payments) struct UnfinishedCheckout {
    pub(in crate::billing::payments) id: CheckoutId,
    pub(in crate::billing::payments) tenant_id: TenantId,
    pub(in crate::billing::payments) charged_cents: i64,
    pub(in crate::billing::payments) created_at: Timestamp,
    /// What the provider was asked for; a release before this one did not store it.
    pub(in crate::billing::payments) request: Option<NewCheckout>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = table, check_for_backend(diesel::pg::Pg))]
struct UnfinishedRow {
    id: uuid::Uuid,
    tenant_id: uuid::Uuid,
    price_id: String,
    charged_cents: i64,
    created_at: jiff_diesel::Timestamp,
    provider_customer_id: Option<String>,
    success_url: Option<String>,
    cancel_url: Option<String>,
}

impl From<UnfinishedRow> for UnfinishedCheckout {
    fn from(row: UnfinishedRow) -> Self {
        let (id, tenant_id) = (CheckoutId::from_uuid(row.id), TenantId::from_uuid(row.tenant_id));
        let request = match (row.provider_customer_id, row.success_url, row.cancel_url) {
            (Some(customer_id), Some(success_url), Some(cancel_url)) => Some(NewCheckout {
                checkout_id: id,
                tenant_id,
                customer_id,
                price_id: row.price_id,
                success_url,
                cancel_url,
            }),
            _ => None,
        };
        Self { id, tenant_id, charged_cents: row.charged_cents, created_at: row.created_at.to_jiff(), request }
    }
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
        request: &NewCheckout,
        pack: &Pack,
    ) -> Result<(), DbError> {
        diesel::insert_into(table::table)
            .values((
                table::id.eq(request.checkout_id.as_uuid()),
                table::tenant_id.eq(request.tenant_id.as_uuid()),
                table::price_id.eq(&pack.price_id),
                table::charged_cents.eq(pack.charged_cents),
                table::credit_cents.eq(pack.credit_cents),
                table::state.eq("creating"),
                table::created_at.eq(at.to_diesel()),
                table::updated_at.eq(at.to_diesel()),
                table::provider_customer_id.eq(&request.customer_id),
                table::success_url.eq(&request.success_url),
                table::cancel_url.eq(&request.cancel_url),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// The oldest hundred checkouts made before `before` of which nobody noted how their making ended.
    pub(in crate::billing::payments) async fn list_unfinished(
        &mut self,
        before: Timestamp,
    ) -> Result<Vec<UnfinishedCheckout>, DbError> {
        let rows: Vec<UnfinishedRow> = table::table
            .filter(table::state.eq("creating").and(table::created_at.lt(before.to_diesel())))
            .order((table::created_at, table::id))
            .limit(100)
            .select(UnfinishedRow::as_select())
            .load(self.conn)
            .await?;
        Ok(rows.into_iter().map(UnfinishedCheckout::from).collect())
    }

    /// Notes the page of a checkout; `false` if it is known already.
    pub(in crate::billing::payments) async fn mark_open(
        &mut self,
        at: Timestamp,
        id: CheckoutId,
        session_id: &str,
    ) -> Result<bool, DbError> {
        // Its webhook may have been faster: then only the id is missing.
        let noted = diesel::update(table::table.find(id.as_uuid()).filter(table::provider_session_id.is_null()))
            .set((table::provider_session_id.eq(session_id), table::updated_at.eq(at.to_diesel())))
            .execute(self.conn)
            .await?;
        diesel::update(table::table.find(id.as_uuid()).filter(table::state.eq("creating")))
            .set(table::state.eq("open"))
            .execute(self.conn)
            .await?;
        Ok(noted == 1)
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
