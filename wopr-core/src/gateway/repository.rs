//! The SQL of calls, prices and limits. Row structs stay inside.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
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
use crate::db::schema::gateway::{models, spending_limits};
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

    /// What can be asked for.
    pub(super) async fn list_models(&mut self) -> Result<Vec<Model>, DbError> {
        let rows: Vec<ModelRow> =
            models::table.filter(models::enabled).select(ModelRow::as_select()).load(self.conn).await?;
        rows.into_iter().map(Model::try_from).collect()
    }

    /// Writes calls that ended, each once, and adds those that are new to the sums of their hours.
    pub(super) async fn insert_calls(&mut self, calls: &[CallRecord]) -> Result<(), DbError> {
        fn column<'c, T: 'c>(calls: &'c [CallRecord], value: impl Fn(&'c CallRecord) -> T) -> Vec<T> {
            calls.iter().map(value).collect()
        }
        let mut explanations = Vec::with_capacity(calls.len());
        for call in calls {
            let text = serde_json::to_string(&call.explanation);
            explanations.push(text.map_err(|error| DbError::inconsistent("gateway_requests", error))?);
        }
        // Columns, not rows as JSON: reading those takes the database several times as long as writing them.
        diesel::sql_query(
            "WITH fresh AS (
                 INSERT INTO gateway_requests (id, tenant_id, bot_id, key_id, capability, model_asked, model_served, provider,
                     machine, byok, attempts, streamed, outcome, input_units, cached_units, output_units, usage_source,
                     cost_nanos, charge_nanos, reserved_nanos, started_at, first_byte_ms, ended_at, explanation)
                 SELECT id, tenant_id, bot_id, key_id, capability, model_asked, model_served, provider,
                     machine, byok, attempts, streamed, outcome, input_units, cached_units, output_units, usage_source,
                     cost_nanos, charge_nanos, reserved_nanos, started_at, first_byte_ms, ended_at, explanation::jsonb
                 FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
                     $9::text[], $10::boolean[], $11::smallint[], $12::boolean[], $13::text[], $14::bigint[], $15::bigint[],
                     $16::bigint[], $17::text[], $18::bigint[], $19::bigint[], $20::bigint[], $21::timestamptz[],
                     $22::integer[], $23::timestamptz[], $24::text[])
                     AS call (id, tenant_id, bot_id, key_id, capability, model_asked, model_served, provider,
                     machine, byok, attempts, streamed, outcome, input_units, cached_units, output_units, usage_source,
                     cost_nanos, charge_nanos, reserved_nanos, started_at, first_byte_ms, ended_at, explanation)
                 ON CONFLICT DO NOTHING
                 RETURNING tenant_id, capability, provider, model_asked, input_units, output_units, cost_nanos, charge_nanos,
                     started_at, ended_at)
             INSERT INTO usage_hours (tenant_id, hour, capability, provider, model, requests, input_units, output_units,
                 duration_ms, cost_nanos, charge_nanos)
             SELECT tenant_id, date_trunc('hour', ended_at, 'UTC'), capability, coalesce(provider, ''), model_asked, count(*),
                 sum(input_units), sum(output_units),
                 sum(greatest(extract(epoch FROM ended_at - started_at) * 1000, 0)::bigint),
                 sum(cost_nanos), sum(charge_nanos)
             FROM fresh GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
             ON CONFLICT (tenant_id, hour, capability, provider, model) DO UPDATE SET
                 requests = usage_hours.requests + excluded.requests,
                 input_units = usage_hours.input_units + excluded.input_units,
                 output_units = usage_hours.output_units + excluded.output_units,
                 duration_ms = usage_hours.duration_ms + excluded.duration_ms,
                 cost_nanos = usage_hours.cost_nanos + excluded.cost_nanos,
                 charge_nanos = usage_hours.charge_nanos + excluded.charge_nanos",
        )
        .bind::<Array<SqlUuid>, _>(column(calls, |call| call.id))
        .bind::<Array<SqlUuid>, _>(column(calls, |call| call.tenant_id))
        .bind::<Array<Nullable<SqlUuid>>, _>(column(calls, |call| call.bot_id))
        .bind::<Array<SqlUuid>, _>(column(calls, |call| call.key_id))
        .bind::<Array<Text>, _>(column(calls, |call| call.capability.as_str()))
        .bind::<Array<Text>, _>(column(calls, |call| call.model_asked.as_str()))
        .bind::<Array<Nullable<Text>>, _>(column(calls, |call| call.model_served.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(column(calls, |call| call.provider.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(column(calls, |call| call.machine.as_deref()))
        .bind::<Array<Bool>, _>(column(calls, |call| call.byok))
        .bind::<Array<SmallInt>, _>(column(calls, |call| i16::from(call.attempts)))
        .bind::<Array<Bool>, _>(column(calls, |call| call.streamed))
        .bind::<Array<Text>, _>(column(calls, |call| call.outcome.as_str()))
        .bind::<Array<BigInt>, _>(column(calls, |call| call.input_units))
        .bind::<Array<BigInt>, _>(column(calls, |call| call.cached_units))
        .bind::<Array<BigInt>, _>(column(calls, |call| call.output_units))
        .bind::<Array<Text>, _>(column(calls, |call| call.usage_source.as_str()))
        .bind::<Array<BigInt>, _>(column(calls, |call| call.cost_nanos.as_nanos()))
        .bind::<Array<BigInt>, _>(column(calls, |call| call.charge_nanos.as_nanos()))
        .bind::<Array<BigInt>, _>(column(calls, |call| call.reserved_nanos.as_nanos()))
        .bind::<Array<Timestamptz>, _>(column(calls, |call| call.started_at.to_diesel()))
        .bind::<Array<Nullable<Integer>>, _>(column(calls, |call| {
            call.first_byte_ms.map(|ms| i32::try_from(ms).unwrap_or(i32::MAX))
        }))
        .bind::<Array<Timestamptz>, _>(column(calls, |call| call.ended_at.to_diesel()))
        .bind::<Array<Text>, _>(explanations)
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
        let rows: Vec<(String, Option<i64>, Option<i64>)> = spending_limits::table
            .filter(spending_limits::tenant_id.eq(tenant.as_uuid()))
            .order(spending_limits::capability)
            .select((spending_limits::capability, spending_limits::alert_cents, spending_limits::hard_cap_cents))
            .load(self.conn)
            .await?;
        rows.into_iter()
            .map(|(capability, alert_cents, hard_cap_cents)| {
                let capability = match capability.as_str() {
                    "*" => None,
                    word => Some(Capability::from_word(word).ok_or_else(|| {
                        DbError::inconsistent("spending_limits", format!("{tenant}: unknown capability"))
                    })?),
                };
                Ok(SpendingLimit { capability, alert_cents, hard_cap_cents })
            })
            .collect()
    }

    /// Replaces what the tenant allows itself. Rows are kept, so that every change is announced; who was told of an amount is
    /// told once more when it is another.
    pub(super) async fn save_limits(
        &mut self,
        at: Timestamp,
        tenant: TenantId,
        limits: &[SpendingLimit],
    ) -> Result<(), DbError> {
        let words: Vec<&str> = limits.iter().map(|limit| limit.capability.map_or("*", Capability::as_str)).collect();
        let alerts: Vec<Option<i64>> = limits.iter().map(|limit| limit.alert_cents).collect();
        let caps: Vec<Option<i64>> = limits.iter().map(|limit| limit.hard_cap_cents).collect();
        diesel::sql_query(
            "INSERT INTO spending_limits (tenant_id, capability, alert_cents, hard_cap_cents, updated_at)
             SELECT $1, capability, alert_cents, hard_cap_cents, $2
             FROM unnest($3, $4, $5) AS wanted (capability, alert_cents, hard_cap_cents)
             UNION ALL
             SELECT $1, capability, NULL, NULL, $2 FROM spending_limits
             WHERE tenant_id = $1 AND capability <> ALL ($3)
             ON CONFLICT (tenant_id, capability) DO UPDATE SET
                 alert_cents = excluded.alert_cents, hard_cap_cents = excluded.hard_cap_cents,
                 updated_at = excluded.updated_at,
                 alerted_at = CASE WHEN spending_limits.alert_cents IS NOT DISTINCT FROM excluded.alert_cents
                     THEN spending_limits.alerted_at END",
        )
        .bind::<SqlUuid, _>(tenant.as_uuid())
        .bind::<Timestamptz, _>(at.to_diesel())
        .bind::<Array<Text>, _>(words)
        .bind::<Array<Nullable<BigInt>>, _>(alerts)
        .bind::<Array<Nullable<BigInt>>, _>(caps)
        .execute(self.conn)
        .await?;
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
