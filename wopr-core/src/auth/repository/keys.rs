use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use crate::auth::{ApiKey, Scope};
use crate::db::DbError;
use crate::db::schema::auth::api_keys;
use crate::ids::{ApiKeyId, BotId, TenantId};

#[derive(Queryable, Selectable)]
#[diesel(table_name = api_keys, check_for_backend(diesel::pg::Pg))]
struct ApiKeyRow {
    id: Uuid,
    tenant_id: Option<Uuid>,
    bot_id: Option<Uuid>,
    scope: String,
    label: String,
    prefix: String,
    created_at: jiff_diesel::Timestamp,
    expires_at: Option<jiff_diesel::Timestamp>,
    last_used_at: Option<jiff_diesel::Timestamp>,
    revoked_at: Option<jiff_diesel::Timestamp>,
}

impl TryFrom<ApiKeyRow> for ApiKey {
    type Error = DbError;

    fn try_from(row: ApiKeyRow) -> Result<Self, DbError> {
        let scope: Scope = row.scope.parse().map_err(|error| DbError::inconsistent("api_keys", error))?;
        Ok(Self {
            id: ApiKeyId::from_uuid(row.id),
            tenant_id: row.tenant_id.map(TenantId::from_uuid),
            bot_id: row.bot_id.map(BotId::from_uuid),
            scope,
            label: row.label,
            prefix: row.prefix,
            created_at: row.created_at.to_jiff(),
            expires_at: row.expires_at.map(jiff_diesel::Timestamp::to_jiff),
            last_used_at: row.last_used_at.map(jiff_diesel::Timestamp::to_jiff),
            revoked_at: row.revoked_at.map(jiff_diesel::Timestamp::to_jiff),
        })
    }
}

pub(in crate::auth) struct KeyRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> KeyRepository<'c> {
    pub(in crate::auth) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    pub(in crate::auth) async fn insert(&mut self, key: &ApiKey, key_hash: &[u8; 32]) -> Result<(), DbError> {
        diesel::insert_into(api_keys::table)
            .values((
                api_keys::id.eq(key.id.as_uuid()),
                api_keys::tenant_id.eq(key.tenant_id.map(TenantId::as_uuid)),
                api_keys::bot_id.eq(key.bot_id.map(BotId::as_uuid)),
                api_keys::scope.eq(key.scope.as_str()),
                api_keys::label.eq(&key.label),
                api_keys::prefix.eq(&key.prefix),
                api_keys::key_hash.eq(key_hash.as_slice()),
                api_keys::created_at.eq(key.created_at.to_diesel()),
                api_keys::expires_at.eq(key.expires_at.map(jiff_diesel::ToDiesel::to_diesel)),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// The key with this secret, if it is valid at `at`.
    pub(in crate::auth) async fn find_valid(
        &mut self,
        key_hash: &[u8; 32],
        at: Timestamp,
    ) -> Result<Option<ApiKey>, DbError> {
        let row: Option<ApiKeyRow> = api_keys::table
            .filter(api_keys::key_hash.eq(key_hash.as_slice()))
            .filter(api_keys::revoked_at.is_null())
            .filter(api_keys::expires_at.is_null().or(api_keys::expires_at.gt(at.to_diesel())))
            .select(ApiKeyRow::as_select())
            .first(self.conn)
            .await
            .optional()?;
        row.map(ApiKey::try_from).transpose()
    }

    /// Notes that a key was used, unless that was noted after `unless_after`.
    pub(in crate::auth) async fn touch(
        &mut self,
        id: ApiKeyId,
        at: Timestamp,
        unless_after: Timestamp,
    ) -> Result<(), DbError> {
        let stale = api_keys::last_used_at.is_null().or(api_keys::last_used_at.le(unless_after.to_diesel()));
        diesel::update(api_keys::table.find(id.as_uuid()).filter(stale))
            .set(api_keys::last_used_at.eq(at.to_diesel()))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// The tenant's keys, or those bound to none; newest first, revoked ones included.
    pub(in crate::auth) async fn list(&mut self, tenant: Option<TenantId>) -> Result<Vec<ApiKey>, DbError> {
        let rows: Vec<ApiKeyRow> = api_keys::table
            .filter(api_keys::tenant_id.is_not_distinct_from(tenant.map(TenantId::as_uuid)))
            .order((api_keys::created_at.desc(), api_keys::id.desc()))
            .select(ApiKeyRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(ApiKey::try_from).collect()
    }

    /// Revokes one of the tenant's keys. Revoking again keeps the first time. `None` when there is no such key.
    pub(in crate::auth) async fn revoke(
        &mut self,
        at: Timestamp,
        tenant: Option<TenantId>,
        id: ApiKeyId,
    ) -> Result<Option<ApiKey>, DbError> {
        let mine = api_keys::tenant_id.is_not_distinct_from(tenant.map(TenantId::as_uuid));
        diesel::update(api_keys::table.find(id.as_uuid()).filter(mine).filter(api_keys::revoked_at.is_null()))
            .set(api_keys::revoked_at.eq(at.to_diesel()))
            .execute(self.conn)
            .await?;
        let row: Option<ApiKeyRow> = api_keys::table
            .find(id.as_uuid())
            .filter(mine)
            .select(ApiKeyRow::as_select())
            .first(self.conn)
            .await
            .optional()?;
        row.map(ApiKey::try_from).transpose()
    }

    /// Revokes every key that was made for a bot.
    /// Lets nobody in with a bot's keys from then on; those that end sooner, do.
    pub(in crate::auth) async fn expire_of_bot(&mut self, until: Timestamp, bot: BotId) -> Result<(), DbError> {
        let until = until.to_diesel();
        let longer = api_keys::table
            .filter(api_keys::bot_id.eq(bot.as_uuid()))
            .filter(api_keys::revoked_at.is_null())
            .filter(api_keys::expires_at.is_null().or(api_keys::expires_at.assume_not_null().gt(until)));
        diesel::update(longer).set(api_keys::expires_at.eq(until)).execute(self.conn).await?;
        Ok(())
    }

    pub(in crate::auth) async fn revoke_of_bot(&mut self, at: Timestamp, bot: BotId) -> Result<(), DbError> {
        let valid = api_keys::table.filter(api_keys::bot_id.eq(bot.as_uuid())).filter(api_keys::revoked_at.is_null());
        diesel::update(valid).set(api_keys::revoked_at.eq(at.to_diesel())).execute(self.conn).await?;
        Ok(())
    }
}
