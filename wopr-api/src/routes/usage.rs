//! What a tenant used of models, what it came to, and what the tenant allows itself.

use std::collections::BTreeMap;

use axum::extract::State;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wopr_core::gateway::{
    CallsQuery, Capability, PastCall, SpendingLimit, UsageQuery, UsageStep, UsageSums, UsageWindow,
};
use wopr_core::ids::{BotId, CallId, TenantId};
use wopr_core::money::Money;

use crate::decimal::{Decimal, Dollars};
use crate::error::{ApiError, Issue};
use crate::extract::{AdminCaller, Json, Query};
use crate::state::AppState;
use crate::trpc::{Access, Context, NoInput, Procedures};

/// What nobody spends: a thousand million dollars, in cents.
const MOST_CENTS: i64 = 100_000_000_000;
/// An operator looks back so many days at most.
const MOST_DAYS: u32 = 90;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(rest_usage)).routes(routes!(rest_summary))
}

pub(crate) fn procedures(p: &mut Procedures) {
    p.query("billing.usage", Access::User, usage);
    p.query("billing.usageSummary", Access::User, usage_summary);
    p.query("billing.hostedUsageSummary", Access::User, hosted_usage_summary);
    p.query("billing.hostedUsageEvents", Access::User, hosted_usage_events);
    p.query("billing.spendingLimits", Access::User, spending_limits);
    p.mutation("billing.updateSpendingLimits", Access::User, update_spending_limits);
    p.query("admin.tenantUsageByCapability", Access::PlatformAdmin, tenant_usage);
}

/// How long the windows are.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Step {
    #[default]
    Hour,
    Day,
}

impl From<Step> for UsageStep {
    fn from(step: Step) -> Self {
        match step {
            Step::Hour => Self::Hour,
            Step::Day => Self::Day,
        }
    }
}

/// Which part of the usage.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
struct UsageInput {
    /// Only for an operator's credential, which is bound to no tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// Such as `chat-completions`.
    capability: Option<String>,
    /// Such as `openrouter`, or `gpu-llama` for our own machines.
    provider: Option<String>,
    /// The model that was asked for.
    model: Option<String>,
    /// From the hour on in which this is, in milliseconds since 1970.
    start_date: Option<i64>,
    /// Before this, in milliseconds since 1970.
    end_date: Option<i64>,
    /// `hour`, unless told otherwise, or `day` (UTC).
    #[param(inline)]
    window: Option<Step>,
    /// 1 to 1000, and 1000 unless told otherwise.
    limit: Option<u32>,
}

impl UsageInput {
    fn query(self) -> Result<UsageQuery, ApiError> {
        Ok(UsageQuery {
            capability: self.capability.as_deref().map(capability).transpose()?,
            provider: self.provider,
            model: self.model,
            from: self.start_date.map(|millis| instant("startDate", millis)).transpose()?,
            to: self.end_date.map(|millis| instant("endDate", millis)).transpose()?,
            step: self.window.unwrap_or_default().into(),
            limit: limit(self.limit, UsageQuery::MOST)?,
        })
    }
}

fn capability(word: &str) -> Result<Capability, ApiError> {
    Capability::from_word(word).ok_or_else(|| {
        let words = Capability::ALL.map(Capability::as_str).join(", ");
        ApiError::invalid_input(vec![Issue::field("capability", format!("it is one of {words}"))])
    })
}

fn instant(name: &str, millis: i64) -> Result<Timestamp, ApiError> {
    Timestamp::from_millisecond(millis)
        .map_err(|_| ApiError::invalid_input(vec![Issue::field(name, "milliseconds since 1970 are needed")]))
}

fn limit(asked: Option<u32>, most: u32) -> Result<u32, ApiError> {
    match asked.unwrap_or(most) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        _ => Err(ApiError::invalid_input(vec![Issue::field("limit", format!("1 to {most} are answered at once"))])),
    }
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct UsageOutput {
    #[schema(value_type = String)]
    tenant: TenantId,
    usage: Vec<Usage>,
}

/// What was used of one model by one provider in one window.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Usage {
    #[schema(value_type = String)]
    tenant: TenantId,
    capability: &'static str,
    /// Empty for calls that nobody answered.
    provider: String,
    model: String,
    event_count: i64,
    /// Tokens read, characters, milliseconds of sound, or pictures.
    input_units: i64,
    /// Tokens written.
    output_units: i64,
    /// What it cost us, in nano-dollars.
    total_cost: i64,
    /// What was charged, in nano-dollars.
    total_charge: i64,
    /// How long the calls took, in milliseconds.
    total_duration: i64,
    /// In milliseconds since 1970.
    window_start: i64,
    window_end: i64,
}

impl Usage {
    fn new(tenant: TenantId, window: UsageWindow) -> Self {
        let UsageSums { requests, input_units, output_units, duration_ms, cost, charge } = window.sums;
        Self {
            tenant,
            capability: window.capability.as_str(),
            provider: window.provider,
            model: window.model,
            event_count: requests,
            input_units,
            output_units,
            total_cost: cost.as_nanos(),
            total_charge: charge.as_nanos(),
            total_duration: duration_ms,
            window_start: window.begins_at.as_millisecond(),
            window_end: window.ends_at.as_millisecond(),
        }
    }
}

async fn list(state: &AppState, tenant: TenantId, query: &UsageQuery) -> Result<Vec<Usage>, ApiError> {
    let windows = state.gateway.usage(tenant, query).await?;
    Ok(windows.into_iter().map(|window| Usage::new(tenant, window)).collect())
}

/// `billing.usage`
async fn usage(cx: Context, input: UsageInput) -> Result<UsageOutput, ApiError> {
    let tenant = cx.tenant(input.tenant)?;
    Ok(UsageOutput { tenant, usage: list(&cx.state, tenant, &input.query()?).await? })
}

/// What a tenant used of models, the newest window first.
#[utoipa::path(
    get, path = "/api/billing/usage", tag = "billing", params(UsageInput),
    responses((status = 200, body = UsageOutput)),
    security(("bearer" = ["admin"]), ("session" = []))
)]
async fn rest_usage(
    State(state): State<AppState>,
    AdminCaller(caller): AdminCaller,
    Query(input): Query<UsageInput>,
) -> Result<Json<UsageOutput>, ApiError> {
    let tenant = caller.tenant_or_asked(input.tenant)?;
    Ok(Json(UsageOutput { tenant, usage: list(&state, tenant, &input.query()?).await? }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
struct SummaryInput {
    /// Only for an operator's credential, which is bound to no tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// From the hour on in which this is, in milliseconds since 1970; the current hour unless told.
    start_date: Option<i64>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct SummaryOutput {
    #[schema(value_type = String)]
    tenant: TenantId,
    /// In milliseconds since 1970.
    period_start: i64,
    /// What it cost us, in nano-dollars.
    total_cost: i64,
    /// What was charged, in nano-dollars.
    total_charge: i64,
    event_count: i64,
}

async fn summary(state: &AppState, tenant: TenantId, start: Option<i64>) -> Result<SummaryOutput, ApiError> {
    let from = match start {
        Some(millis) => instant("startDate", millis)?,
        None => state.clock.now(),
    };
    let hour = 3_600_000;
    let mut summary = SummaryOutput {
        tenant,
        period_start: from.as_millisecond().div_euclid(hour) * hour,
        total_cost: 0,
        total_charge: 0,
        event_count: 0,
    };
    for (_, sums) in state.gateway.usage_since(tenant, from).await? {
        summary.total_cost = summary.total_cost.saturating_add(sums.cost.as_nanos());
        summary.total_charge = summary.total_charge.saturating_add(sums.charge.as_nanos());
        summary.event_count = summary.event_count.saturating_add(sums.requests);
    }
    Ok(summary)
}

/// `billing.usageSummary`
async fn usage_summary(cx: Context, input: SummaryInput) -> Result<SummaryOutput, ApiError> {
    let tenant = cx.tenant(input.tenant)?;
    summary(&cx.state, tenant, input.start_date).await
}

/// What a tenant's use of models came to since an hour began.
#[utoipa::path(
    get, path = "/api/billing/usage/summary", tag = "billing", params(SummaryInput),
    responses((status = 200, body = SummaryOutput)),
    security(("bearer" = ["admin"]), ("session" = []))
)]
async fn rest_summary(
    State(state): State<AppState>,
    AdminCaller(caller): AdminCaller,
    Query(input): Query<SummaryInput>,
) -> Result<Json<SummaryOutput>, ApiError> {
    let tenant = caller.tenant_or_asked(input.tenant)?;
    summary(&state, tenant, input.start_date).await.map(Json)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HostedSummary {
    period_start: String,
    period_end: String,
    capabilities: Vec<HostedCapability>,
    /// In cents, as all of these.
    total_cost: i64,
    /// Nothing is included: credit is prepaid.
    included_credit: i64,
    /// Nothing is due: what was used was paid from credit.
    amount_due: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HostedCapability {
    capability: &'static str,
    label: &'static str,
    units: i64,
    unit_label: &'static str,
    /// What was charged, in cents.
    cost: i64,
}

/// How a capability is told to people, and how many of what were used.
fn told(capability: Capability, input_units: i64, output_units: i64) -> (&'static str, i64, &'static str) {
    match capability {
        Capability::ChatCompletions => ("Conversations", input_units.saturating_add(output_units), "tokens"),
        Capability::TextCompletions => ("Text completions", input_units.saturating_add(output_units), "tokens"),
        Capability::Embeddings => ("Embeddings", input_units, "tokens"),
        Capability::Transcription => ("Transcription", input_units.saturating_add(999) / 1_000, "seconds"),
        Capability::Tts => ("Speech", input_units, "characters"),
        Capability::ImageGeneration => ("Pictures", input_units, "pictures"),
    }
}

/// `billing.hostedUsageSummary`: the calendar month so far (UTC).
async fn hosted_usage_summary(cx: Context, _input: NoInput) -> Result<HostedSummary, ApiError> {
    let tenant = cx.tenant(None)?;
    let now = cx.state.clock.now();
    let first = now.to_zoned(TimeZone::UTC).date().first_of_month();
    let begins_at = first.to_zoned(TimeZone::UTC).map_err(ApiError::internal)?.timestamp();
    let mut total = Money::ZERO;
    let mut capabilities = Vec::new();
    for (capability, sums) in cx.state.gateway.usage_since(tenant, begins_at).await? {
        total = Money::from_nanos(total.as_nanos().saturating_add(sums.charge.as_nanos()));
        let (label, units, unit_label) = told(capability, sums.input_units, sums.output_units);
        let cost = sums.charge.as_cents_rounded();
        capabilities.push(HostedCapability { capability: capability.as_str(), label, units, unit_label, cost });
    }
    Ok(HostedSummary {
        period_start: format!("{begins_at:.3}"),
        period_end: format!("{now:.3}"),
        capabilities,
        total_cost: total.as_cents_rounded(),
        included_credit: 0,
        amount_due: 0,
    })
}

#[derive(Debug, Default, Deserialize)]
struct EventsInput {
    capability: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HostedEvent {
    id: CallId,
    date: String,
    capability: &'static str,
    /// `null` where nobody answered.
    provider: Option<String>,
    model: String,
    bot_id: Option<BotId>,
    outcome: &'static str,
    units: i64,
    unit_label: &'static str,
    /// What was charged, in cents; most calls cost less than one.
    cost: i64,
    /// The same in nano-dollars.
    cost_nano: i64,
}

impl From<PastCall> for HostedEvent {
    fn from(call: PastCall) -> Self {
        let (_, units, unit_label) = told(call.capability, call.input_units, call.output_units);
        Self {
            id: call.id,
            date: format!("{:.3}", call.started_at),
            capability: call.capability.as_str(),
            provider: call.provider,
            model: call.model,
            bot_id: call.bot_id,
            outcome: call.outcome.as_str(),
            units,
            unit_label,
            cost: call.charge.as_cents_rounded(),
            cost_nano: call.charge.as_nanos(),
        }
    }
}

/// `billing.hostedUsageEvents`: the newest 500 calls of the last 90 days.
async fn hosted_usage_events(cx: Context, input: Option<EventsInput>) -> Result<Vec<HostedEvent>, ApiError> {
    let tenant = cx.tenant(None)?;
    let input = input.unwrap_or_default();
    let read = |name: &str, text: Option<String>| {
        let read = text.map(|text| text.parse::<Timestamp>()).transpose();
        read.map_err(|_| ApiError::invalid_input(vec![Issue::field(name, "an instant such as 2026-01-31T00:00:00Z")]))
    };
    let query = CallsQuery {
        capability: input.capability.as_deref().map(capability).transpose()?,
        from: read("from", input.from)?,
        to: read("to", input.to)?,
        limit: CallsQuery::MOST,
    };
    Ok(cx.state.gateway.calls(tenant, &query).await?.into_iter().map(HostedEvent::from).collect())
}

/// What a tenant allows itself in a month, in dollars. All of it is sent, also what stays as it is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    global: Limit,
    per_capability: BTreeMap<String, Limit>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limit {
    /// From when on the tenant is told by mail. Leaving it out is no way of removing it.
    #[serde(deserialize_with = "Option::deserialize")]
    alert_at: Option<Dollars>,
    /// Calls that could lead beyond it are refused.
    #[serde(deserialize_with = "Option::deserialize")]
    hard_cap: Option<Dollars>,
}

impl Limit {
    fn checked(self, path: &[&str], issues: &mut Vec<Issue>) -> Self {
        for (name, dollars) in [("alertAt", self.alert_at), ("hardCap", self.hard_cap)] {
            if dollars.is_some_and(|Decimal(cents)| !(0..=MOST_CENTS).contains(&cents)) {
                let path = path.iter().copied().chain([name]).map(serde_json::Value::from).collect();
                let message = format!("0 to {} dollars can be set", MOST_CENTS / 100);
                issues.push(Issue { code: "custom", path, message });
            }
        }
        self
    }
}

impl From<Vec<SpendingLimit>> for Limits {
    fn from(limits: Vec<SpendingLimit>) -> Self {
        let mut out = Self { global: Limit::default(), per_capability: BTreeMap::new() };
        for SpendingLimit { capability, alert_cents, hard_cap_cents } in limits {
            let limit = Limit { alert_at: alert_cents.map(Decimal), hard_cap: hard_cap_cents.map(Decimal) };
            match capability {
                None => out.global = limit,
                Some(capability) => drop(out.per_capability.insert(capability.as_str().to_owned(), limit)),
            }
        }
        out
    }
}

/// `billing.spendingLimits`
async fn spending_limits(cx: Context, _input: NoInput) -> Result<Limits, ApiError> {
    Ok(cx.state.gateway.spending_limits(cx.tenant(None)?).await?.into())
}

/// `billing.updateSpendingLimits`
async fn update_spending_limits(cx: Context, input: Limits) -> Result<Limits, ApiError> {
    // A key that only looks must not be able to lift a cap.
    cx.caller()?.require(wopr_core::auth::Scope::Admin)?;
    let tenant = cx.tenant(None)?;
    let mut issues = Vec::new();
    let one = |capability, limit: Limit| SpendingLimit {
        capability,
        alert_cents: limit.alert_at.map(|Decimal(cents)| cents),
        hard_cap_cents: limit.hard_cap.map(|Decimal(cents)| cents),
    };
    let mut limits = vec![one(None, input.global.checked(&["global"], &mut issues))];
    for (word, limit) in input.per_capability {
        match Capability::from_word(&word) {
            Some(capability) => {
                let limit = limit.checked(&["perCapability", &word], &mut issues);
                limits.push(one(Some(capability), limit));
            }
            None => issues.push(Issue {
                code: "custom",
                path: vec!["perCapability".into(), word.into()],
                message: format!("it is one of {}", Capability::ALL.map(Capability::as_str).join(", ")),
            }),
        }
    }
    if !issues.is_empty() {
        return Err(ApiError::invalid_input(issues));
    }
    cx.state.gateway.set_spending_limits(&cx.origin, tenant, &limits).await?;
    Ok(cx.state.gateway.spending_limits(tenant).await?.into())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TenantUsageInput {
    tenant_id: TenantId,
    days: Option<u32>,
}

#[derive(Debug, Serialize)]
struct TenantUsage {
    usage: Vec<Usage>,
}

/// `admin.tenantUsageByCapability`: by the day.
async fn tenant_usage(cx: Context, input: TenantUsageInput) -> Result<TenantUsage, ApiError> {
    let days = input.days.unwrap_or(30);
    if !(1..=MOST_DAYS).contains(&days) {
        return Err(ApiError::invalid_input(vec![Issue::field("days", format!("1 to {MOST_DAYS} days can be seen"))]));
    }
    let from = cx.state.clock.now() - SignedDuration::from_hours(24 * i64::from(days));
    let query = UsageQuery { from: Some(from), step: UsageStep::Day, ..UsageQuery::default() };
    Ok(TenantUsage { usage: list(&cx.state, input.tenant_id, &query).await? })
}
