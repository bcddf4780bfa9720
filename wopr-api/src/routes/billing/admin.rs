//! Operators' changes of a tenant's credit and standing.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wopr_core::audit::Origin;
use wopr_core::billing::{AdminCredit, AdminOperation, BillingError, Standing, StandingRecord};
use wopr_core::ids::TenantId;
use wopr_core::money::Money;

use super::{PageInput, Transaction, Transactions, history};
use crate::error::ApiError;
use crate::extract::{Json, Path, PlatformAdmin, Query, origin};
use crate::state::AppState;
use crate::trpc::{Access, Context, Procedures};

const MAX_REASON_CHARS: usize = 1000;
const MAX_REFERENCE_CHARS: usize = 500;
const MAX_OPERATION_ID_BYTES: usize = 128;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(rest_grant))
        .routes(routes!(rest_refund))
        .routes(routes!(rest_correction))
        .routes(routes!(rest_balance))
        .routes(routes!(rest_transactions))
        .routes(routes!(rest_adjustments))
}

pub(super) fn procedures(p: &mut Procedures) {
    p.query("admin.creditsBalance", Access::PlatformAdmin, credits_balance);
    p.query("admin.creditsTransactions", Access::PlatformAdmin, credits_transactions);
    p.mutation("admin.creditsGrant", Access::PlatformAdmin, credits_grant);
    p.mutation("admin.creditsRefund", Access::PlatformAdmin, credits_refund);
    p.mutation("admin.creditsCorrection", Access::PlatformAdmin, credits_correction);
    p.query("admin.tenantStatus", Access::PlatformAdmin, tenant_status);
    p.mutation("admin.suspendTenant", Access::PlatformAdmin, suspend_tenant);
    p.mutation("admin.reactivateTenant", Access::PlatformAdmin, reactivate_tenant);
    p.mutation("admin.banTenant", Access::PlatformAdmin, ban_tenant);
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TenantInput {
    tenant_id: TenantId,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct BalanceOutput {
    #[schema(value_type = String)]
    tenant: TenantId,
    balance_cents: i64,
}

/// `admin.creditsBalance`
async fn credits_balance(cx: Context, input: TenantInput) -> Result<BalanceOutput, ApiError> {
    balance(&cx.state, input.tenant_id).await
}

#[derive(Debug, Deserialize)]
struct TransactionsInput {
    #[serde(rename = "tenantId")]
    tenant_id: TenantId,
    #[serde(flatten)]
    page: PageInput,
}

/// `admin.creditsTransactions`
async fn credits_transactions(cx: Context, input: TransactionsInput) -> Result<Transactions, ApiError> {
    history(&cx.state, input.tenant_id, &input.page).await
}

#[derive(Debug, Deserialize)]
struct CreditInput {
    #[serde(rename = "tenantId")]
    tenant_id: TenantId,
    #[serde(flatten)]
    change: ChangeInput,
}

/// An operator's change of a tenant's credit.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
struct ChangeInput {
    /// Whole cents.
    amount_cents: i64,
    /// Shown to the customer.
    reason: String,
    /// Chosen by the client: the same operation twice is done once. Without one, a repetition is a second operation.
    operation_id: Option<String>,
}

/// `admin.creditsGrant`
async fn credits_grant(cx: Context, input: CreditInput) -> Result<Transaction, ApiError> {
    administer(&cx.state, &cx.origin, input.tenant_id, AdminCredit::Grant, input.change).await
}

/// `admin.creditsRefund`: books a refund that was paid out; the credit is taken.
async fn credits_refund(cx: Context, input: CreditInput) -> Result<Transaction, ApiError> {
    administer(&cx.state, &cx.origin, input.tenant_id, AdminCredit::Refund, input.change).await
}

/// `admin.creditsCorrection`
async fn credits_correction(cx: Context, input: CreditInput) -> Result<Transaction, ApiError> {
    administer(&cx.state, &cx.origin, input.tenant_id, AdminCredit::Correction, input.change).await
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusOutput {
    tenant_id: TenantId,
    /// `active`, `grace_period`, `suspended`, `banned` or `deleting`.
    status: &'static str,
    status_reason: Option<&'static str>,
    status_changed_at: Option<i64>,
    status_changed_by: Option<String>,
    grace_deadline: Option<i64>,
    data_delete_after: Option<i64>,
}

/// `admin.tenantStatus`
async fn tenant_status(cx: Context, input: TenantInput) -> Result<StatusOutput, ApiError> {
    let StandingRecord { standing, since, changed_by } = cx.state.billing.standing_record(input.tenant_id).await?;
    let (reason, grace, delete_after) = match standing {
        Standing::Active | Standing::Destroying => (None, None, None),
        Standing::Grace { until } => (Some("credits"), Some(until), None),
        Standing::Suspended { reason, delete_after } => (Some(reason.as_str()), None, delete_after),
        Standing::Banned { delete_after } => (Some("ban"), None, Some(delete_after)),
    };
    Ok(StatusOutput {
        tenant_id: input.tenant_id,
        status: status(standing),
        status_reason: reason,
        status_changed_at: since.map(Timestamp::as_millisecond),
        status_changed_by: changed_by,
        grace_deadline: grace.map(Timestamp::as_millisecond),
        data_delete_after: delete_after.map(Timestamp::as_millisecond),
    })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StandingOutput {
    tenant_id: TenantId,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SuspendInput {
    tenant_id: TenantId,
    reason: String,
    #[serde(default)]
    notify_by_email: bool,
}

/// `admin.suspendTenant`
async fn suspend_tenant(cx: Context, input: SuspendInput) -> Result<StandingOutput, ApiError> {
    let reason = text("reason", input.reason, MAX_REASON_CHARS)?;
    let (tenant_id, tell) = (input.tenant_id, input.notify_by_email);
    let standing = cx.state.billing.suspend_tenant(&cx.origin, tenant_id, &reason, tell).await?;
    Ok(StandingOutput { tenant_id, status: status(standing), reason: Some(reason) })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReactivateInput {
    tenant_id: TenantId,
    #[serde(default)]
    notify_by_email: bool,
}

/// `admin.reactivateTenant`
async fn reactivate_tenant(cx: Context, input: ReactivateInput) -> Result<StandingOutput, ApiError> {
    let (tenant_id, tell) = (input.tenant_id, input.notify_by_email);
    let standing = cx.state.billing.reactivate_tenant(&cx.origin, tenant_id, tell).await?;
    Ok(StandingOutput { tenant_id, status: status(standing), reason: None })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BanInput {
    tenant_id: TenantId,
    reason: String,
    tos_reference: String,
    /// `BAN {tenantId}`.
    confirm_name: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BanOutput {
    #[serde(flatten)]
    standing: StandingOutput,
    /// Always zero: a ban moves no money; refunds are a decision of their own.
    refunded_cents: i64,
}

/// `admin.banTenant`
async fn ban_tenant(cx: Context, input: BanInput) -> Result<BanOutput, ApiError> {
    let tenant_id = input.tenant_id;
    let reason = text("reason", input.reason, MAX_REASON_CHARS - MAX_REFERENCE_CHARS)?;
    let reference = text("tosReference", input.tos_reference, MAX_REFERENCE_CHARS - 3)?;
    let note = format!("{reason} ({reference})");
    let standing = cx.state.billing.ban_tenant(&cx.origin, tenant_id, &note, &input.confirm_name).await?;
    let standing = StandingOutput { tenant_id, status: status(standing), reason: Some(reason) };
    Ok(BanOutput { standing, refunded_cents: 0 })
}

/// `POST /api/admin/credits/{tenantId}/grant`
#[utoipa::path(
    post,
    path = "/api/admin/credits/{tenant_id}/grant",
    params(("tenant_id" = String, Path), ("idempotency-key" = Option<String>, Header)),
    request_body = ChangeInput,
    responses((status = CREATED, body = Transaction)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_grant(
    state: State<AppState>,
    caller: AdminRequest,
    tenant: Path<TenantId>,
    change: Json<ChangeInput>,
) -> Result<(StatusCode, Json<Transaction>), ApiError> {
    rest_change(state.0, tenant.0, caller, AdminCredit::Grant, change.0).await
}

/// `POST /api/admin/credits/{tenantId}/refund`
#[utoipa::path(
    post,
    path = "/api/admin/credits/{tenant_id}/refund",
    params(("tenant_id" = String, Path), ("idempotency-key" = Option<String>, Header)),
    request_body = ChangeInput,
    responses((status = CREATED, body = Transaction), (status = BAD_REQUEST, description = "More than is available")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_refund(
    state: State<AppState>,
    caller: AdminRequest,
    tenant: Path<TenantId>,
    change: Json<ChangeInput>,
) -> Result<(StatusCode, Json<Transaction>), ApiError> {
    rest_change(state.0, tenant.0, caller, AdminCredit::Refund, change.0).await
}

/// `POST /api/admin/credits/{tenantId}/correction`
#[utoipa::path(
    post,
    path = "/api/admin/credits/{tenant_id}/correction",
    params(("tenant_id" = String, Path), ("idempotency-key" = Option<String>, Header)),
    request_body = ChangeInput,
    responses((status = CREATED, body = Transaction)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_correction(
    state: State<AppState>,
    caller: AdminRequest,
    tenant: Path<TenantId>,
    change: Json<ChangeInput>,
) -> Result<(StatusCode, Json<Transaction>), ApiError> {
    rest_change(state.0, tenant.0, caller, AdminCredit::Correction, change.0).await
}

/// `GET /api/admin/credits/{tenantId}/balance`
#[utoipa::path(
    get,
    path = "/api/admin/credits/{tenant_id}/balance",
    params(("tenant_id" = String, Path)),
    responses((status = OK, body = BalanceOutput)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_balance(
    State(state): State<AppState>,
    _caller: PlatformAdmin,
    Path(tenant): Path<TenantId>,
) -> Result<Json<BalanceOutput>, ApiError> {
    balance(&state, tenant).await.map(Json)
}

/// `GET /api/admin/credits/{tenantId}/transactions`
#[utoipa::path(
    get,
    path = "/api/admin/credits/{tenant_id}/transactions",
    params(("tenant_id" = String, Path), PageInput),
    responses((status = OK, body = Transactions)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_transactions(
    State(state): State<AppState>,
    _caller: PlatformAdmin,
    Path(tenant): Path<TenantId>,
    Query(page): Query<PageInput>,
) -> Result<Json<Transactions>, ApiError> {
    history(&state, tenant, &page).await.map(Json)
}

/// `GET /api/admin/credits/{tenantId}/adjustments`: another name of `transactions`.
#[utoipa::path(
    get,
    path = "/api/admin/credits/{tenant_id}/adjustments",
    params(("tenant_id" = String, Path), PageInput),
    responses((status = OK, body = Transactions)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_adjustments(
    state: State<AppState>,
    caller: PlatformAdmin,
    tenant: Path<TenantId>,
    page: Query<PageInput>,
) -> Result<Json<Transactions>, ApiError> {
    rest_transactions(state, caller, tenant, page).await
}

/// A platform administrator's request: where it came from, and the key it is to be done once by.
struct AdminRequest {
    origin: Origin,
    idempotency_key: Option<String>,
}

impl axum::extract::FromRequestParts<AppState> for AdminRequest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &AppState) -> Result<Self, ApiError> {
        let PlatformAdmin(caller) = PlatformAdmin::from_request_parts(parts, state).await?;
        let idempotency_key = idempotency_key(&parts.headers)?;
        Ok(Self { origin: origin(parts, Some(&caller)), idempotency_key })
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().map_err(|_| ApiError::bad_request("The Idempotency-Key is not ASCII text"))?;
    Ok(Some(text.to_owned()))
}

async fn rest_change(
    state: AppState,
    tenant: TenantId,
    request: AdminRequest,
    credit: fn(Money) -> AdminCredit,
    change: ChangeInput,
) -> Result<(StatusCode, Json<Transaction>), ApiError> {
    let operation_id = change.operation_id.or(request.idempotency_key);
    let change = ChangeInput { operation_id, ..change };
    let transaction = administer(&state, &request.origin, tenant, credit, change).await?;
    Ok((StatusCode::CREATED, Json(transaction)))
}

async fn administer(
    state: &AppState,
    origin: &Origin,
    tenant_id: TenantId,
    credit: fn(Money) -> AdminCredit,
    change: ChangeInput,
) -> Result<Transaction, ApiError> {
    let operation_id = change.operation_id.map(|id| text("operation_id", id, MAX_OPERATION_ID_BYTES)).transpose()?;
    let reason = text("reason", change.reason, MAX_REASON_CHARS)?;
    let amount = Money::try_from_cents(change.amount_cents).map_err(BillingError::from)?;
    let operation = AdminOperation { operation_id, tenant_id, credit: credit(amount), reason };
    match state.billing.administer(origin, &operation).await {
        Ok(entry) => Ok(entry.into()),
        // The operator is not the one who has to pay.
        Err(BillingError::InsufficientCredit { available, .. }) => {
            let balance = available.as_cents_floor();
            let body = json!({ "error": "Insufficient balance", "current_balance": balance });
            Err(ApiError::bad_request("Insufficient balance")
                .code("INSUFFICIENT_BALANCE")
                .detail("current_balance", balance)
                .contract_body(body))
        }
        Err(error) => Err(error.into()),
    }
}

async fn balance(state: &AppState, tenant: TenantId) -> Result<BalanceOutput, ApiError> {
    let balance = state.billing.balance(tenant).await?;
    Ok(BalanceOutput { tenant, balance_cents: balance.balance.as_cents_rounded() })
}

/// The contract's word for a standing.
fn status(standing: Standing) -> &'static str {
    match standing {
        Standing::Active => "active",
        Standing::Grace { .. } => "grace_period",
        Standing::Suspended { .. } => "suspended",
        Standing::Banned { .. } => "banned",
        Standing::Destroying => "deleting",
    }
}

/// A text of at least one character besides blanks, and at most `max`.
fn text(name: &str, value: String, max: usize) -> Result<String, ApiError> {
    if value.trim().is_empty() || value.chars().count() > max {
        return Err(ApiError::bad_request(format!("`{name}` needs 1 to {max} characters")));
    }
    Ok(value)
}
