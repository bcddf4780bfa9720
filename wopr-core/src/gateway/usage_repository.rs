//! The SQL of what was used. Row structs stay inside.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::{SignedDuration, Timestamp};
use jiff_diesel::ToDiesel;
use uuid::Uuid;

use super::model::Capability;
use super::record::Outcome;
use super::usage::{CallsQuery, PastCall, Spender, UsageQuery, UsageStep, UsageSums, UsageWindow};
use crate::db::DbError;
use crate::ids::{BotId, CallId, TenantId};
use crate::money::Money;

#[derive(QueryableByName)]
struct SumsRow {
    #[diesel(sql_type = Text)]
    capability: String,
    #[diesel(sql_type = BigInt)]
    requests: i64,
    #[diesel(sql_type = BigInt)]
    input_units: i64,
    #[diesel(sql_type = BigInt)]
    output_units: i64,
    #[diesel(sql_type = BigInt)]
    duration_ms: i64,
    #[diesel(sql_type = BigInt)]
    cost_nanos: i64,
    #[diesel(sql_type = BigInt)]
    charge_nanos: i64,
}

impl SumsRow {
    fn sums(&self) -> UsageSums {
        UsageSums {
            requests: self.requests,
            input_units: self.input_units,
            output_units: self.output_units,
            duration_ms: self.duration_ms,
            cost: Money::from_nanos(self.cost_nanos),
            charge: Money::from_nanos(self.charge_nanos),
        }
    }
}

#[derive(QueryableByName)]
struct WindowRow {
    #[diesel(sql_type = Timestamptz)]
    begins_at: jiff_diesel::Timestamp,
    #[diesel(sql_type = Text)]
    provider: String,
    #[diesel(sql_type = Text)]
    model: String,
    #[diesel(embed)]
    sums: SumsRow,
}

#[derive(QueryableByName)]
struct CallRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    bot_id: Option<Uuid>,
    #[diesel(sql_type = Text)]
    capability: String,
    #[diesel(sql_type = Text)]
    model_asked: String,
    #[diesel(sql_type = Nullable<Text>)]
    provider: Option<String>,
    #[diesel(sql_type = Text)]
    outcome: String,
    #[diesel(sql_type = BigInt)]
    input_units: i64,
    #[diesel(sql_type = BigInt)]
    output_units: i64,
    #[diesel(sql_type = BigInt)]
    charge_nanos: i64,
    #[diesel(sql_type = Timestamptz)]
    started_at: jiff_diesel::Timestamp,
}

impl TryFrom<CallRow> for PastCall {
    type Error = DbError;

    fn try_from(row: CallRow) -> Result<Self, DbError> {
        let broken = |what: &str| DbError::inconsistent("gateway_requests", format!("{}: {what}", row.id));
        Ok(Self {
            capability: Capability::from_word(&row.capability).ok_or_else(|| broken("unknown capability"))?,
            outcome: Outcome::from_word(&row.outcome).ok_or_else(|| broken("unknown outcome"))?,
            id: CallId::from_uuid(row.id),
            bot_id: row.bot_id.map(BotId::from_uuid),
            model: row.model_asked,
            provider: row.provider,
            input_units: row.input_units,
            output_units: row.output_units,
            charge: Money::from_nanos(row.charge_nanos),
            started_at: row.started_at.to_jiff(),
        })
    }
}

#[derive(QueryableByName)]
struct SpenderRow {
    #[diesel(sql_type = SqlUuid)]
    tenant_id: Uuid,
    #[diesel(sql_type = Text)]
    capability: String,
    #[diesel(sql_type = BigInt)]
    alert_cents: i64,
    #[diesel(sql_type = BigInt)]
    spent_nanos: i64,
}

#[derive(QueryableByName)]
struct NanosRow {
    #[diesel(sql_type = BigInt)]
    nanos: i64,
}

fn capability(table: &'static str, word: &str) -> Result<Capability, DbError> {
    Capability::from_word(word).ok_or_else(|| DbError::inconsistent(table, format!("unknown capability {word}")))
}

pub(super) struct UsageRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> UsageRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// What a tenant used, the newest window first.
    pub(super) async fn list(&mut self, tenant: TenantId, query: &UsageQuery) -> Result<Vec<UsageWindow>, DbError> {
        let (word, length) = match query.step {
            UsageStep::Hour => ("hour", SignedDuration::from_hours(1)),
            UsageStep::Day => ("day", SignedDuration::from_hours(24)),
        };
        let rows: Vec<WindowRow> = diesel::sql_query(
            "SELECT date_trunc($2, hour, 'UTC') AS begins_at, capability, provider, model,
                 sum(requests)::bigint AS requests, sum(input_units)::bigint AS input_units,
                 sum(output_units)::bigint AS output_units, sum(duration_ms)::bigint AS duration_ms,
                 sum(cost_nanos)::bigint AS cost_nanos, sum(charge_nanos)::bigint AS charge_nanos
             FROM usage_hours
             WHERE tenant_id = $1 AND hour >= coalesce(date_trunc('hour', $3, 'UTC'), '-infinity')
                 AND hour < coalesce($4, 'infinity') AND ($5 IS NULL OR capability = $5)
                 AND ($6 IS NULL OR provider = $6) AND ($7 IS NULL OR model = $7)
             GROUP BY 1, 2, 3, 4 ORDER BY 1 DESC, 2, 3, 4 LIMIT $8",
        )
        .bind::<SqlUuid, _>(tenant.as_uuid())
        .bind::<Text, _>(word)
        .bind::<Nullable<Timestamptz>, _>(query.from.map(ToDiesel::to_diesel))
        .bind::<Nullable<Timestamptz>, _>(query.to.map(ToDiesel::to_diesel))
        .bind::<Nullable<Text>, _>(query.capability.map(Capability::as_str))
        .bind::<Nullable<Text>, _>(query.provider.as_deref())
        .bind::<Nullable<Text>, _>(query.model.as_deref())
        .bind::<BigInt, _>(i64::from(query.limit.min(UsageQuery::MOST)))
        .load(self.conn)
        .await?;
        rows.into_iter()
            .map(|row| {
                let begins_at = row.begins_at.to_jiff();
                Ok(UsageWindow {
                    begins_at,
                    ends_at: begins_at + length,
                    capability: capability("usage_hours", &row.sums.capability)?,
                    sums: row.sums.sums(),
                    provider: row.provider,
                    model: row.model,
                })
            })
            .collect()
    }

    /// What a tenant used, by capability.
    pub(super) async fn sums_since(
        &mut self,
        tenant: TenantId,
        from: Timestamp,
    ) -> Result<Vec<(Capability, UsageSums)>, DbError> {
        let rows: Vec<SumsRow> = diesel::sql_query(
            "SELECT capability, sum(requests)::bigint AS requests, sum(input_units)::bigint AS input_units,
                 sum(output_units)::bigint AS output_units, sum(duration_ms)::bigint AS duration_ms,
                 sum(cost_nanos)::bigint AS cost_nanos, sum(charge_nanos)::bigint AS charge_nanos
             FROM usage_hours WHERE tenant_id = $1 AND hour >= date_trunc('hour', $2, 'UTC')
             GROUP BY 1 ORDER BY 1",
        )
        .bind::<SqlUuid, _>(tenant.as_uuid())
        .bind::<Timestamptz, _>(from.to_diesel())
        .load(self.conn)
        .await?;
        rows.iter().map(|row| Ok((capability("usage_hours", &row.capability)?, row.sums()))).collect()
    }

    /// What all tenants were charged.
    pub(super) async fn charged_since(&mut self, from: Timestamp) -> Result<Money, DbError> {
        let row: NanosRow = diesel::sql_query(
            "SELECT coalesce(sum(charge_nanos), 0)::bigint AS nanos FROM usage_hours
             WHERE hour >= date_trunc('hour', $1, 'UTC')",
        )
        .bind::<Timestamptz, _>(from.to_diesel())
        .get_result(self.conn)
        .await?;
        Ok(Money::from_nanos(row.nanos))
    }

    /// A tenant's calls, the newest first.
    pub(super) async fn calls(&mut self, tenant: TenantId, query: &CallsQuery) -> Result<Vec<PastCall>, DbError> {
        let rows: Vec<CallRow> = diesel::sql_query(
            "SELECT id, bot_id, capability, model_asked, provider, outcome, input_units, output_units, charge_nanos,
                 started_at
             FROM gateway_requests
             WHERE tenant_id = $1 AND started_at >= coalesce($2, '-infinity') AND started_at < coalesce($3, 'infinity')
                 AND ($4 IS NULL OR capability = $4)
             ORDER BY started_at DESC, id DESC LIMIT $5",
        )
        .bind::<SqlUuid, _>(tenant.as_uuid())
        .bind::<Nullable<Timestamptz>, _>(query.from.map(ToDiesel::to_diesel))
        .bind::<Nullable<Timestamptz>, _>(query.to.map(ToDiesel::to_diesel))
        .bind::<Nullable<Text>, _>(query.capability.map(Capability::as_str))
        .bind::<BigInt, _>(i64::from(query.limit.min(CallsQuery::MOST)))
        .load(self.conn)
        .await?;
        rows.into_iter().map(PastCall::try_from).collect()
    }

    /// Limits after that one whose amount is spent and whose tenant was not told in this month. Their rows are locked until the
    /// transaction ends.
    pub(super) async fn lock_spenders(
        &mut self,
        month: Timestamp,
        after: Option<&Spender>,
        most: i64,
    ) -> Result<Vec<Spender>, DbError> {
        let (tenant, word) = after.map_or((Uuid::nil(), ""), |spender| (spender.tenant.as_uuid(), spender.word()));
        let rows: Vec<SpenderRow> = diesel::sql_query(
            "SELECT l.tenant_id, l.capability, l.alert_cents, spent.nanos AS spent_nanos
             FROM spending_limits l CROSS JOIN LATERAL (
                 SELECT coalesce(sum(charge_nanos), 0)::bigint AS nanos FROM usage_hours u
                 WHERE u.tenant_id = l.tenant_id AND u.hour >= $1 AND l.capability IN ('*', u.capability)) spent
             WHERE l.alert_cents IS NOT NULL AND (l.alerted_at IS NULL OR l.alerted_at < $1)
                 AND spent.nanos > 0 AND spent.nanos >= l.alert_cents::numeric * 10000000
                 AND (l.tenant_id, l.capability) > ($3, $4)
             ORDER BY l.tenant_id, l.capability LIMIT $2 FOR UPDATE OF l SKIP LOCKED",
        )
        .bind::<Timestamptz, _>(month.to_diesel())
        .bind::<BigInt, _>(most)
        .bind::<SqlUuid, _>(tenant)
        .bind::<Text, _>(word)
        .load(self.conn)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Spender {
                    tenant: TenantId::from_uuid(row.tenant_id),
                    capability: match row.capability.as_str() {
                        "*" => None,
                        word => Some(capability("spending_limits", word)?),
                    },
                    alert_cents: row.alert_cents,
                    spent: Money::from_nanos(row.spent_nanos),
                })
            })
            .collect()
    }

    /// The tenant was told.
    pub(super) async fn spender_told(&mut self, at: Timestamp, spender: &Spender) -> Result<(), DbError> {
        diesel::sql_query("UPDATE spending_limits SET alerted_at = $3 WHERE tenant_id = $1 AND capability = $2")
            .bind::<SqlUuid, _>(spender.tenant.as_uuid())
            .bind::<Text, _>(spender.word())
            .bind::<Timestamptz, _>(at.to_diesel())
            .execute(self.conn)
            .await?;
        Ok(())
    }
}
