//! The SQL of calls, prices and limits. Row structs stay inside.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use futures_util::{Stream, StreamExt as _};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use super::catalogue::Model;
use super::limits::{MonthSpend, SpendingLimit};
use super::model::Capability;
use super::price::{Price, Side, Unit};
use super::record::CallRecord;
use crate::db::schema::gateway::{models, prices, spending_limits};
use crate::db::{Db, DbError};
use crate::ids::{LeaseHolder, TenantId};
use crate::money::Money;

/// What other processes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// A key of the tenant was changed.
    Key(TenantId),
    /// The tenant's standing was changed.
    Standing(TenantId),
    /// What the tenant allows itself was changed.
    Limits(TenantId),
    /// That process needs what the tenant has free elsewhere.
    Recall(TenantId, LeaseHolder),
    /// Somebody has given back what the tenant had free there.
    GivenBack(TenantId),
}

impl News {
    fn parse(payload: &str) -> Option<Self> {
        let (what, rest) = payload.split_once(':')?;
        let (tenant, holder) = rest.split_once(':').unwrap_or((rest, ""));
        let tenant = TenantId::from_uuid(Uuid::try_parse(tenant).ok()?);
        Some(match what {
            "key" => Self::Key(tenant),
            "standing" => Self::Standing(tenant),
            "limits" => Self::Limits(tenant),
            "recall" => Self::Recall(tenant, LeaseHolder::from_uuid(Uuid::try_parse(holder).ok()?)),
            "given-back" => Self::GivenBack(tenant),
            _ => return None,
        })
    }
}

#[derive(QueryableByName)]
struct PriceRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    capability: String,
    #[diesel(sql_type = Text)]
    provider: String,
    #[diesel(sql_type = Text)]
    model: String,
    #[diesel(sql_type = Text)]
    unit: String,
    #[diesel(sql_type = Text)]
    side: String,
    #[diesel(sql_type = BigInt)]
    nanos: i64,
}

impl TryFrom<PriceRow> for Price {
    type Error = DbError;

    fn try_from(row: PriceRow) -> Result<Self, DbError> {
        let broken = |what: &str| DbError::inconsistent("prices", format!("{}: {what}", row.id));
        Ok(Self {
            id: row.id,
            capability: Capability::from_word(&row.capability).ok_or_else(|| broken("unknown capability"))?,
            unit: Unit::from_word(&row.unit).ok_or_else(|| broken("unknown unit"))?,
            side: Side::from_word(&row.side).ok_or_else(|| broken("unknown side"))?,
            nanos: row.nanos,
            provider: row.provider,
            model: row.model,
        })
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = models)]
struct ModelRow {
    id: String,
    capability: String,
    provider: String,
    provider_model: String,
    max_output_tokens: Option<i32>,
    priority: i32,
}

impl TryFrom<ModelRow> for Model {
    type Error = DbError;

    fn try_from(row: ModelRow) -> Result<Self, DbError> {
        let broken = |what: &str| DbError::inconsistent("models", format!("{}: {what}", row.id));
        let most = row.max_output_tokens.map(u32::try_from).transpose();
        Ok(Self {
            capability: Capability::from_word(&row.capability).ok_or_else(|| broken("unknown capability"))?,
            max_output_tokens: most.map_err(|_| broken("negative output"))?,
            id: row.id,
            provider: row.provider,
            provider_model: row.provider_model,
            priority: row.priority,
        })
    }
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = diesel::sql_types::Bool)]
    found: bool,
}

#[derive(QueryableByName)]
struct SpendRow {
    #[diesel(sql_type = Text)]
    capability: String,
    #[diesel(sql_type = BigInt)]
    charge_nanos: i64,
}

pub(super) struct GatewayRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> GatewayRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// The prices that hold at `at`: of each kind the newest that has begun, unless it ended the price.
    pub(super) async fn list_prices(&mut self, at: Timestamp) -> Result<Vec<Price>, DbError> {
        let rows: Vec<PriceRow> = diesel::sql_query(
            "SELECT id, capability, provider, model, unit, side, nanos FROM (
                 SELECT DISTINCT ON (capability, provider, model, unit, side) * FROM prices WHERE valid_from <= $1
                 ORDER BY capability, provider, model, unit, side, valid_from DESC) newest
             WHERE nanos IS NOT NULL",
        )
        .bind::<Timestamptz, _>(at.to_diesel())
        .load(self.conn)
        .await?;
        rows.into_iter().map(Price::try_from).collect()
    }

    /// Adds a price that holds from `at` on; `None` ends the one before.
    pub(super) async fn insert_price(
        &mut self,
        at: Timestamp,
        price: &Price,
        nanos: Option<i64>,
        by: &str,
    ) -> Result<(), DbError> {
        diesel::insert_into(prices::table)
            .values((
                prices::id.eq(price.id),
                prices::capability.eq(price.capability.as_str()),
                prices::provider.eq(&price.provider),
                prices::model.eq(&price.model),
                prices::unit.eq(price.unit.as_str()),
                prices::side.eq(price.side.as_str()),
                prices::nanos.eq(nanos),
                prices::valid_from.eq(at.to_diesel()),
                prices::created_by.eq(by),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// What can be asked for.
    pub(super) async fn list_models(&mut self) -> Result<Vec<Model>, DbError> {
        let rows: Vec<ModelRow> =
            models::table.filter(models::enabled).select(ModelRow::as_select()).load(self.conn).await?;
        rows.into_iter().map(Model::try_from).collect()
    }

    /// Offers a model, or changes the offer.
    pub(super) async fn save_model(&mut self, model: &Model) -> Result<(), DbError> {
        let most = model.max_output_tokens.map(i32::try_from).transpose();
        let values = (
            models::provider_model.eq(&model.provider_model),
            models::max_output_tokens.eq(most.map_err(|error| DbError::inconsistent("models", error))?),
            models::priority.eq(model.priority),
            models::enabled.eq(true),
        );
        diesel::insert_into(models::table)
            .values((
                models::id.eq(&model.id),
                models::capability.eq(model.capability.as_str()),
                models::provider.eq(&model.provider),
                values,
            ))
            .on_conflict((models::id, models::capability, models::provider))
            .do_update()
            .set(values)
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Writes calls that ended, each once, and adds those that are new to the sums of their hours.
    pub(super) async fn insert_calls(&mut self, calls: &[CallRecord]) -> Result<(), DbError> {
        // As text: a tree of values would only be made to be written out again.
        let json = serde_json::to_string(calls).map_err(|error| DbError::inconsistent("gateway_requests", error))?;
        diesel::sql_query(
            "WITH fresh AS (
                 INSERT INTO gateway_requests (id, tenant_id, bot_id, key_id, capability, model_asked, model_served, provider,
                     attempts, streamed, outcome, input_units, cached_units, output_units, usage_source, explanation,
                     cost_nanos, charge_nanos, reserved_nanos, started_at, first_byte_ms, ended_at)
                 SELECT id, tenant_id, bot_id, key_id, capability, model_asked, model_served, provider,
                     attempts, streamed, outcome, input_units, cached_units, output_units, usage_source, explanation,
                     cost_nanos, charge_nanos, reserved_nanos, started_at, first_byte_ms, ended_at
                 FROM jsonb_to_recordset($1::jsonb) AS call (id uuid, tenant_id uuid, bot_id uuid, key_id uuid, capability text,
                     model_asked text, model_served text, provider text, attempts smallint, streamed boolean, outcome text,
                     input_units bigint, cached_units bigint, output_units bigint, usage_source text, explanation jsonb,
                     cost_nanos bigint, charge_nanos bigint, reserved_nanos bigint, started_at timestamptz,
                     first_byte_ms integer, ended_at timestamptz)
                 ON CONFLICT DO NOTHING
                 RETURNING tenant_id, capability, provider, cost_nanos, charge_nanos, ended_at)
             INSERT INTO usage_hours (tenant_id, hour, capability, provider, requests, cost_nanos, charge_nanos)
             SELECT tenant_id, date_trunc('hour', ended_at, 'UTC'), capability, coalesce(provider, ''), count(*),
                 sum(cost_nanos), sum(charge_nanos)
             FROM fresh GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
             ON CONFLICT (tenant_id, hour, capability, provider) DO UPDATE SET
                 requests = usage_hours.requests + excluded.requests,
                 cost_nanos = usage_hours.cost_nanos + excluded.cost_nanos,
                 charge_nanos = usage_hours.charge_nanos + excluded.charge_nanos",
        )
        .bind::<Text, _>(json)
        .execute(self.conn)
        .await?;
        Ok(())
    }

    /// What the tenant has spent since then, by capability.
    pub(super) async fn spend_since(&mut self, tenant: TenantId, since: Timestamp) -> Result<MonthSpend, DbError> {
        let rows: Vec<SpendRow> = diesel::sql_query(
            "SELECT capability, sum(charge_nanos)::bigint AS charge_nanos FROM usage_hours
             WHERE tenant_id = $1 AND hour >= $2 GROUP BY 1",
        )
        .bind::<SqlUuid, _>(tenant.as_uuid())
        .bind::<Timestamptz, _>(since.to_diesel())
        .load(self.conn)
        .await?;
        let spent = rows
            .into_iter()
            .filter_map(|row| Some((Capability::from_word(&row.capability)?, Money::from_nanos(row.charge_nanos))));
        Ok(MonthSpend::new(spent))
    }

    /// What the tenant allows itself.
    pub(super) async fn list_limits(&mut self, tenant: TenantId) -> Result<Vec<SpendingLimit>, DbError> {
        let rows: Vec<(String, Option<i64>)> = spending_limits::table
            .filter(spending_limits::tenant_id.eq(tenant.as_uuid()))
            .order(spending_limits::capability)
            .select((spending_limits::capability, spending_limits::hard_cap_cents))
            .load(self.conn)
            .await?;
        rows.into_iter()
            .map(|(capability, hard_cap_cents)| {
                let capability = match capability.as_str() {
                    "*" => None,
                    word => Some(Capability::from_word(word).ok_or_else(|| {
                        DbError::inconsistent("spending_limits", format!("{tenant}: unknown capability"))
                    })?),
                };
                Ok(SpendingLimit { capability, hard_cap_cents })
            })
            .collect()
    }

    /// Replaces what the tenant allows itself. Rows are kept, so that every change is announced.
    pub(super) async fn save_limits(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        limits: &[SpendingLimit],
    ) -> Result<(), DbError> {
        diesel::update(spending_limits::table.filter(spending_limits::tenant_id.eq(tenant.as_uuid())))
            .set((spending_limits::hard_cap_cents.eq(None::<i64>), spending_limits::updated_at.eq(at.to_diesel())))
            .execute(self.conn)
            .await?;
        for limit in limits {
            let values = (
                spending_limits::hard_cap_cents.eq(limit.hard_cap_cents),
                spending_limits::updated_at.eq(at.to_diesel()),
            );
            diesel::insert_into(spending_limits::table)
                .values((
                    spending_limits::tenant_id.eq(tenant.as_uuid()),
                    spending_limits::capability.eq(limit.capability.map_or("*", Capability::as_str)),
                    values,
                ))
                .on_conflict((spending_limits::tenant_id, spending_limits::capability))
                .do_update()
                .set(values)
                .execute(self.conn)
                .await?;
        }
        Ok(())
    }

    /// Makes a day's own part of the calls, if there is none yet and none of its calls came before it.
    pub(super) async fn ensure_day(&mut self, day: jiff::civil::Date) -> Result<(), DbError> {
        let next = day.tomorrow().map_err(|error| DbError::inconsistent("gateway_requests", error))?;
        let name = format!("gateway_requests_{}", day.strftime("%Y%m%d"));
        // The names and days are ours; DDL takes no parameters.
        self.conn
            .batch_execute(&format!(
                "CREATE TABLE IF NOT EXISTS {name} PARTITION OF gateway_requests
                 FOR VALUES FROM ('{day}T00:00:00Z') TO ('{next}T00:00:00Z')"
            ))
            .await?;
        Ok(())
    }

    /// Removes days that are over for longer than they are kept.
    pub(super) async fn drop_days_before(&mut self, day: jiff::civil::Date) -> Result<usize, DbError> {
        #[derive(QueryableByName)]
        struct Name {
            #[diesel(sql_type = Text)]
            name: String,
        }
        let old: Vec<Name> = diesel::sql_query(
            "SELECT c.relname::text AS name FROM pg_inherits i
             JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
             WHERE p.oid = 'gateway_requests'::regclass AND c.relname ~ '^gateway_requests_[0-9]{8}$'
               AND to_date(right(c.relname, 8), 'YYYYMMDD') < $1 ORDER BY 1",
        )
        .bind::<Date, _>(day.to_diesel())
        .load(self.conn)
        .await?;
        for Name { name } in &old {
            self.conn.batch_execute(&format!("DROP TABLE {name}")).await?;
        }
        let since = format!("{day}T00:00:00Z");
        diesel::sql_query("DELETE FROM gateway_requests_rest WHERE started_at < $1::timestamptz")
            .bind::<Text, _>(since)
            .execute(self.conn)
            .await?;
        Ok(old.len())
    }

    async fn announce(&mut self, what: &str, tenant: TenantId, by: LeaseHolder) -> Result<(), DbError> {
        diesel::sql_query("SELECT pg_notify(current_schema() || '_gateway', $1)")
            .bind::<Text, _>(format!("{what}:{}:{}", tenant.as_uuid(), by.as_uuid()))
            .execute(self.conn)
            .await?;
        Ok(())
    }
}

/// Asks other processes for what the tenant has free there; `false` if nobody else has anything.
pub(super) async fn recall(db: &Db, tenant: TenantId, own: LeaseHolder) -> Result<bool, DbError> {
    let mut conn = db.connection().await?;
    let others: Found = diesel::sql_query(
        "SELECT EXISTS (SELECT FROM credit_leases WHERE tenant_id = $1 AND holder <> $2 AND left_nanos > 0) AS found",
    )
    .bind::<SqlUuid, _>(tenant.as_uuid())
    .bind::<SqlUuid, _>(own.as_uuid())
    .get_result(&mut conn)
    .await?;
    if others.found {
        GatewayRepository::new(&mut conn).announce("recall", tenant, own).await?;
    }
    Ok(others.found)
}

/// Tells whoever recalled it that the tenant's free credit was given back.
pub(super) async fn announce_given_back(db: &Db, tenant: TenantId, own: LeaseHolder) -> Result<(), DbError> {
    let mut conn = db.connection().await?;
    GatewayRepository::new(&mut conn).announce("given-back", tenant, own).await
}

/// Says for as long as its connection lives what other processes announce; from the moment this returns on, nothing is
/// missed. The stream ends with the connection.
pub(super) async fn listen(conn: &mut AsyncPgConnection, schema: &str) -> Result<impl Stream<Item = News>, DbError> {
    conn.batch_execute(&format!("LISTEN \"{schema}_gateway\"")).await?;
    Ok(conn.notifications_stream().filter_map(async |notification| News::parse(&notification.ok()?.payload)))
}
