//! The SQL of tenants' own keys. Row structs stay inside.

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use super::tenant_keys::{KeyedProvider, KeyedUse, TenantKey};
use crate::db::DbError;
use crate::db::schema::gateway::{tenant_api_keys, tenant_capability_settings};
use crate::ids::TenantId;
use crate::vault::Sealed;

#[derive(Queryable, Selectable)]
#[diesel(table_name = tenant_api_keys)]
struct KeyRow {
    id: Uuid,
    provider: String,
    label: String,
    hint: String,
    created_at: jiff_diesel::Timestamp,
    updated_at: jiff_diesel::Timestamp,
}

impl TryFrom<KeyRow> for TenantKey {
    type Error = DbError;

    fn try_from(row: KeyRow) -> Result<Self, DbError> {
        Ok(Self {
            provider: provider(&row.provider)?,
            id: row.id,
            label: row.label,
            hint: row.hint,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        })
    }
}

fn provider(word: &str) -> Result<KeyedProvider, DbError> {
    KeyedProvider::from_word(word)
        .ok_or_else(|| DbError::inconsistent("tenant_api_keys", format!("unknown provider {word}")))
}

fn unsealed(value: serde_json::Value) -> Result<Sealed, DbError> {
    serde_json::from_value(value).map_err(|error| DbError::inconsistent("tenant_api_keys", error))
}

fn json(sealed: &Sealed) -> Result<serde_json::Value, DbError> {
    serde_json::to_value(sealed).map_err(|error| DbError::inconsistent("tenant_api_keys", error))
}

pub(super) struct TenantKeysRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> TenantKeysRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// The keys of a tenant, by provider.
    pub(super) async fn list(&mut self, tenant: TenantId) -> Result<Vec<TenantKey>, DbError> {
        let rows: Vec<KeyRow> = tenant_api_keys::table
            .filter(tenant_api_keys::tenant_id.eq(tenant.as_uuid()))
            .order(tenant_api_keys::provider)
            .select(KeyRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(TenantKey::try_from).collect()
    }

    /// The keys of a tenant, sealed.
    pub(super) async fn list_sealed(&mut self, tenant: TenantId) -> Result<Vec<(KeyedProvider, Sealed)>, DbError> {
        let rows: Vec<(String, serde_json::Value)> = tenant_api_keys::table
            .filter(tenant_api_keys::tenant_id.eq(tenant.as_uuid()))
            .select((tenant_api_keys::provider, tenant_api_keys::sealed))
            .load(self.conn)
            .await?;
        rows.into_iter().map(|(word, sealed)| Ok((provider(&word)?, unsealed(sealed)?))).collect()
    }

    /// Every key of every tenant, sealed.
    pub(super) async fn list_all_sealed(&mut self) -> Result<Vec<(Uuid, TenantId, KeyedProvider, Sealed)>, DbError> {
        let rows: Vec<(Uuid, Uuid, String, serde_json::Value)> = tenant_api_keys::table
            .select((
                tenant_api_keys::id,
                tenant_api_keys::tenant_id,
                tenant_api_keys::provider,
                tenant_api_keys::sealed,
            ))
            .load(self.conn)
            .await?;
        rows.into_iter()
            .map(|(id, tenant, word, sealed)| {
                Ok((id, TenantId::from_uuid(tenant), provider(&word)?, unsealed(sealed)?))
            })
            .collect()
    }

    /// Keeps a key in place of the tenant's one before; answers with its id.
    pub(super) async fn save(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        provider: KeyedProvider,
        label: &str,
        hint: &str,
        sealed: &Sealed,
    ) -> Result<Uuid, DbError> {
        let sealed = json(sealed)?;
        let fresh = (
            tenant_api_keys::label.eq(label),
            tenant_api_keys::hint.eq(hint),
            tenant_api_keys::sealed.eq(&sealed),
            tenant_api_keys::updated_at.eq(at.to_diesel()),
        );
        let id = diesel::insert_into(tenant_api_keys::table)
            .values((
                tenant_api_keys::id.eq(Uuid::new_v4()),
                tenant_api_keys::tenant_id.eq(tenant.as_uuid()),
                tenant_api_keys::provider.eq(provider.as_str()),
                tenant_api_keys::created_at.eq(at.to_diesel()),
                fresh,
            ))
            .on_conflict((tenant_api_keys::tenant_id, tenant_api_keys::provider))
            .do_update()
            .set(fresh)
            .returning(tenant_api_keys::id)
            .get_result(self.conn)
            .await?;
        Ok(id)
    }

    /// Seals a key anew, unless it was replaced meanwhile.
    pub(super) async fn reseal(&mut self, id: Uuid, before: &Sealed, after: &Sealed) -> Result<bool, DbError> {
        let same = tenant_api_keys::table.find(id).filter(tenant_api_keys::sealed.eq(json(before)?));
        let changed = diesel::update(same).set(tenant_api_keys::sealed.eq(json(after)?)).execute(self.conn).await?;
        Ok(changed > 0)
    }

    /// `false` if there was none.
    pub(super) async fn delete(&mut self, tenant: TenantId, provider: KeyedProvider) -> Result<bool, DbError> {
        let key = tenant_api_keys::table
            .filter(tenant_api_keys::tenant_id.eq(tenant.as_uuid()))
            .filter(tenant_api_keys::provider.eq(provider.as_str()));
        Ok(diesel::delete(key).execute(self.conn).await? > 0)
    }

    /// What a tenant's own keys are used for.
    pub(super) async fn list_uses(&mut self, tenant: TenantId) -> Result<Vec<KeyedUse>, DbError> {
        let words: Vec<String> = tenant_capability_settings::table
            .filter(tenant_capability_settings::tenant_id.eq(tenant.as_uuid()))
            .filter(tenant_capability_settings::mode.eq("byok"))
            .order(tenant_capability_settings::capability)
            .select(tenant_capability_settings::capability)
            .load(self.conn)
            .await?;
        let known = |word: &String| {
            KeyedUse::from_word(word)
                .ok_or_else(|| DbError::inconsistent("tenant_capability_settings", format!("unknown {word}")))
        };
        words.iter().map(known).collect()
    }

    pub(super) async fn set_use(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        keyed: KeyedUse,
        own: bool,
    ) -> Result<(), DbError> {
        let fresh = (
            tenant_capability_settings::mode.eq(if own { "byok" } else { "hosted" }),
            tenant_capability_settings::updated_at.eq(at.to_diesel()),
        );
        diesel::insert_into(tenant_capability_settings::table)
            .values((
                tenant_capability_settings::tenant_id.eq(tenant.as_uuid()),
                tenant_capability_settings::capability.eq(keyed.as_str()),
                fresh,
            ))
            .on_conflict((tenant_capability_settings::tenant_id, tenant_capability_settings::capability))
            .do_update()
            .set(fresh)
            .execute(self.conn)
            .await?;
        Ok(())
    }
}
