//! How the platform stands, for operators.

use std::collections::BTreeMap;

use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wopr_core::gateway::{ErrorRate, ErrorWindow, ProviderHealth};

use crate::decimal::Decimal;
use crate::error::{ApiError, chain};
use crate::extract::{Json, PlatformAdmin};
use crate::state::AppState;
use crate::trpc::{Access, Context, NoInput, Procedures};

/// Fewer calls say nothing about a rate.
const ENOUGH_REQUESTS: u64 = 20;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(admin_health)).routes(routes!(rest_providers))
}

pub(crate) fn procedures(p: &mut Procedures) {
    p.query("admin.gatewayProviders", Access::PlatformAdmin, providers);
}

/// How the platform stands. What the gateway counts is of the process that answers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct AdminHealth {
    /// In milliseconds since 1970.
    timestamp: i64,
    gateway: GatewayWindows,
    fleet: FleetHealth,
    billing: BillingHealth,
    alerts: Vec<Alert>,
    /// Nothing probes the payment provider.
    #[schema(value_type = Option<Object>)]
    payment: Option<()>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct GatewayWindows {
    last5m: Errors,
    last60m: Errors,
}

/// Calls that no provider answered whole, or that could not be let in, of all that were not the client's fault.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Errors {
    total_requests: u64,
    total_errors: u64,
    /// 0 to 1.
    #[schema(value_type = f64)]
    error_rate: Decimal<6>,
    by_capability: BTreeMap<&'static str, CapabilityErrors>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct CapabilityErrors {
    requests: u64,
    errors: u64,
    /// 0 to 1.
    #[schema(value_type = f64)]
    error_rate: Decimal<6>,
}

fn rate(rate: ErrorRate) -> Decimal<6> {
    Decimal(i64::try_from(rate.per_million()).unwrap_or(i64::MAX))
}

impl From<&ErrorWindow> for Errors {
    fn from(window: &ErrorWindow) -> Self {
        let by_capability = window.by_capability.iter().map(|(capability, errors)| {
            let ErrorRate { requests, errors: failed } = *errors;
            (capability.as_str(), CapabilityErrors { requests, errors: failed, error_rate: rate(*errors) })
        });
        Self {
            total_requests: window.all.requests,
            total_errors: window.all.errors,
            error_rate: rate(window.all),
            by_capability: by_capability.collect(),
        }
    }
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct FleetHealth {
    /// Bots that are to run; `null` when they cannot be counted.
    active_bots: Option<u64>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct BillingHealth {
    /// What calls were charged in the last 24 hours, in cents; `null` when it cannot be summed.
    #[serde(rename = "creditsConsumed24h")]
    credits_consumed_24h: Option<i64>,
}

/// Something that somebody should look at.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Alert {
    name: &'static str,
    firing: bool,
    message: String,
}

/// What is computed from the counters when it is asked for; nobody is paged by it.
fn alerts(state: &AppState, last_five_minutes: &ErrorWindow, set_aside: u64) -> Vec<Alert> {
    let all = last_five_minutes.all;
    let (requests, errors) = (all.requests, all.errors);
    let said = format!("{errors} of {requests} calls failed in the last 5 minutes");
    let above =
        |percent: u64| requests >= ENOUGH_REQUESTS && errors.saturating_mul(100) > requests.saturating_mul(percent);
    let down = if state.gateway.accepts() { above(50) } else { true };
    vec![
        Alert { name: "gateway-error-rate", firing: above(5), message: said.clone() },
        Alert { name: "sev1-gateway-error-rate", firing: above(10), message: said.clone() },
        Alert {
            name: "sev1-inference-gateway-down",
            firing: down,
            message: if state.gateway.accepts() { said } else { "No calls are let in".to_owned() },
        },
        Alert {
            name: "gateway-refused-charges",
            firing: set_aside > 0,
            message: format!("{set_aside} calls were refused by the database and are not charged"),
        },
    ]
}

/// `GET /admin/health`: how the platform stands. A part that cannot be had is `null`; the others are there.
#[utoipa::path(
    get, path = "/admin/health", tag = "admin", responses((status = 200, body = AdminHealth)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn admin_health(State(state): State<AppState>, _caller: PlatformAdmin) -> Json<AdminHealth> {
    let now = state.clock.now();
    let metrics = state.gateway.metrics();
    let charged = state.gateway.charged_since(now - SignedDuration::from_hours(24)).await;
    let bots = state.fleet.count_wanted_running().await;
    let told =
        |what: &str, error: &(dyn std::error::Error + 'static)| tracing::warn!("{what} is not known: {}", chain(error));
    Json(AdminHealth {
        timestamp: now.as_millisecond(),
        gateway: GatewayWindows { last5m: (&metrics.last_five_minutes).into(), last60m: (&metrics.last_hour).into() },
        fleet: FleetHealth { active_bots: bots.inspect_err(|error| told("how many bots run", error)).ok() },
        billing: BillingHealth {
            credits_consumed_24h: charged
                .inspect_err(|error| told("what was consumed", error))
                .ok()
                .map(wopr_core::money::Money::as_cents_rounded),
        },
        alerts: alerts(&state, &metrics.last_five_minutes, metrics.set_aside),
        payment: None,
    })
}

/// How those who answer calls are doing, as the process that answers sees it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ProvidersOutput {
    providers: Vec<ProviderOutput>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProviderOutput {
    /// A provider, or a service of one of our own machines.
    name: String,
    /// What models are offered under: its name, or `gpu-<service>`.
    offered_as: String,
    own: bool,
    /// `closed`, or `open` while it is left alone because it failed too often.
    circuit: &'static str,
    /// When one call will try it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    tried_again_in_ms: Option<u64>,
    failures_in_a_row: u32,
    last_success_at: Option<String>,
    last_failure_at: Option<String>,
    /// `unreachable`, `timed_out`, `busy`, `failed`, `account` or `broken`.
    last_failure: Option<&'static str>,
}

impl From<ProviderHealth> for ProviderOutput {
    fn from(health: ProviderHealth) -> Self {
        let instant = |at: Option<Timestamp>| at.map(|at| format!("{at:.3}"));
        Self {
            circuit: if health.is_asked() { "closed" } else { "open" },
            tried_again_in_ms: health.paused_for.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
            last_success_at: instant(health.answered_at),
            last_failure_at: instant(health.failed_at),
            last_failure: health.failure.map(wopr_core::gateway::FailureKind::as_str),
            failures_in_a_row: health.failures_in_a_row,
            own: health.own,
            name: health.name,
            offered_as: health.offered_as,
        }
    }
}

fn all_providers(state: &AppState) -> ProvidersOutput {
    ProvidersOutput { providers: state.gateway.providers().into_iter().map(ProviderOutput::from).collect() }
}

/// `admin.gatewayProviders`
async fn providers(cx: Context, _input: NoInput) -> Result<ProvidersOutput, ApiError> {
    Ok(all_providers(&cx.state))
}

/// Who can be asked for models, and how they are doing.
#[utoipa::path(
    get, path = "/api/admin/gateway/providers", tag = "admin", responses((status = 200, body = ProvidersOutput)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_providers(State(state): State<AppState>, _caller: PlatformAdmin) -> Json<ProvidersOutput> {
    Json(all_providers(&state))
}
