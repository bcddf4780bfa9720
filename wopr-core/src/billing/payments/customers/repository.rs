use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;

use crate::db::DbError;
use crate::db::schema::payments::billing_customers as table;
use crate::ids::TenantId;

/// The provider's customer of a tenant, or the intent to make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::billing::payments) struct StoredCustomer {
    pub(in crate::billing::payments) customer_id: Option<String>,
    pub(in crate::billing::payments) generation: i32,
    pub(in crate::billing::payments) email: Option<String>,
}

pub(in crate::billing::payments) struct CustomerRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> CustomerRepository<'c> {
    pub(in crate::billing::payments) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    pub(in crate::billing::payments) async fn find(
        &mut self,
        tenant: TenantId,
    ) -> Result<Option<StoredCustomer>, DbError> {
        let row: Option<(Option<String>, i32, Option<String>)> = table::table
            .find(tenant.as_uuid())
            .select((table::provider_customer_id, table::generation, table::email))
            .first(self.conn)
            .await
            .optional()?;
        Ok(row.map(|(customer_id, generation, email)| StoredCustomer { customer_id, generation, email }))
    }

    /// Stores that the tenant is to have a customer; `email` is kept only if none is known. As long as there is no customer
    /// that changes what the provider is asked for, which takes another key: under the one that was used, perhaps by a
    /// call that was cut off, it would refuse.
    pub(in crate::billing::payments) async fn ensure(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        email: Option<&str>,
    ) -> Result<(), DbError> {
        diesel::insert_into(table::table)
            .values((
                table::tenant_id.eq(tenant.as_uuid()),
                table::email.eq(email),
                table::created_at.eq(at.to_diesel()),
                table::updated_at.eq(at.to_diesel()),
            ))
            .on_conflict(table::tenant_id)
            .do_nothing()
            .execute(self.conn)
            .await?;
        if email.is_some() {
            let without = table::table.find(tenant.as_uuid()).filter(table::email.is_null());
            let asked_for = without.filter(table::provider_customer_id.is_null());
            let saved = (table::email.eq(email), table::updated_at.eq(at.to_diesel()));
            diesel::update(asked_for)
                .set((saved, table::generation.eq(table::generation + 1)))
                .execute(self.conn)
                .await?;
            diesel::update(without).set(saved).execute(self.conn).await?;
        }
        Ok(())
    }

    /// Maps the tenant to a customer if it has none, and nobody else has that one. Answers whether it is its customer
    /// now.
    pub(in crate::billing::payments) async fn link(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        customer_id: &str,
    ) -> Result<bool, DbError> {
        self.ensure(at, tenant, None).await?;
        if let Some(owner) = self.find_tenant(customer_id).await? {
            return Ok(owner == tenant);
        }
        let linked = diesel::update(table::table.find(tenant.as_uuid()).filter(table::provider_customer_id.is_null()))
            .set((table::provider_customer_id.eq(customer_id), table::updated_at.eq(at.to_diesel())))
            .execute(self.conn)
            .await?;
        Ok(linked == 1)
    }

    pub(in crate::billing::payments) async fn save_email(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        email: &str,
    ) -> Result<(), DbError> {
        diesel::update(table::table.find(tenant.as_uuid()))
            .set((table::email.eq(email), table::updated_at.eq(at.to_diesel())))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    pub(in crate::billing::payments) async fn find_tenant(
        &mut self,
        customer_id: &str,
    ) -> Result<Option<TenantId>, DbError> {
        let row: Option<uuid::Uuid> = table::table
            .filter(table::provider_customer_id.eq(customer_id))
            .select(table::tenant_id)
            .first(self.conn)
            .await
            .optional()?;
        Ok(row.map(TenantId::from_uuid))
    }

    /// Forgets a customer that the provider deleted; the next one is made under a new key. Answers whose it was.
    pub(in crate::billing::payments) async fn unlink(
        &mut self,
        at: Timestamp,
        customer_id: &str,
    ) -> Result<Option<TenantId>, DbError> {
        let row: Option<uuid::Uuid> = diesel::update(table::table)
            .filter(table::provider_customer_id.eq(customer_id))
            .set((
                table::provider_customer_id.eq(None::<String>),
                table::generation.eq(table::generation + 1),
                table::updated_at.eq(at.to_diesel()),
            ))
            .returning(table::tenant_id)
            .get_result(self.conn)
            .await
            .optional()?;
        Ok(row.map(TenantId::from_uuid))
    }
}
