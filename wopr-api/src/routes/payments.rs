//! Buying credit: packs, checkout, the provider's webhook, saved payment methods, and money that waits for a person.

use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wopr_core::billing::payments::{CheckoutRequest, DeadEvent, UnmatchedPayment};
use wopr_core::ids::{TenantId, UnmatchedPaymentId, WebhookId};
use wopr_core::money::Money;

use crate::error::ApiError;
use crate::extract::{AdminCaller, Caller, ClientAddress, Json, Path, Principal, Query, origin, read_body};
use crate::state::AppState;
use crate::trpc::{Access, Context, NoInput, Procedures};

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(webhook))
        .routes(routes!(rest_checkout))
        .routes(routes!(rest_portal))
        .routes(routes!(rest_setup_intent))
        .routes(routes!(rest_remove_payment_method))
}

pub(crate) fn procedures(p: &mut Procedures) {
    p.query("billing.creditOptions", Access::Public, credit_options);
    p.mutation("billing.creditsCheckout", Access::User, credits_checkout);
    p.mutation("billing.portalSession", Access::User, portal_session);
    p.query("billing.billingInfo", Access::User, billing_info);
    p.mutation("billing.updateBillingEmail", Access::User, update_billing_email);
    p.mutation("billing.removePaymentMethod", Access::User, remove_payment_method);
    p.query("admin.unmatchedPayments", Access::PlatformAdmin, unmatched_payments);
    p.mutation("admin.assignUnmatchedPayment", Access::PlatformAdmin, assign_unmatched_payment);
    p.query("admin.deadWebhooks", Access::PlatformAdmin, dead_webhooks);
    p.mutation("admin.retryWebhook", Access::PlatformAdmin, retry_webhook);
}

/// Where the provider may write to: the signed-in user's address.
fn email(caller: &Caller) -> Option<String> {
    match &caller.principal {
        Principal::User(signed_in) => Some(signed_in.user.email.to_string()),
        Principal::Key(_) => None,
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CreditOption {
    price_id: String,
    label: String,
    amount_cents: i64,
    credit_cents: i64,
    bonus_percent: i64,
}

/// `billing.creditOptions`
async fn credit_options(cx: Context, _input: NoInput) -> Result<Vec<CreditOption>, ApiError> {
    let options = cx.state.payments.packs().iter().map(|pack| CreditOption {
        price_id: pack.price_id.clone(),
        label: pack.label(),
        amount_cents: pack.charged_cents,
        credit_cents: pack.credit_cents,
        bonus_percent: pack.bonus_percent(),
    });
    Ok(options.collect())
}

/// What to buy, and where the payer goes afterwards.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct CheckoutInput {
    #[schema(value_type = Option<String>)]
    tenant: Option<TenantId>,
    price_id: String,
    success_url: String,
    cancel_url: String,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct CheckoutOutput {
    /// The page to pay on.
    url: String,
    session_id: String,
}

async fn checkout(
    state: &AppState,
    origin: &wopr_core::audit::Origin,
    caller: &Caller,
    input: CheckoutInput,
) -> Result<CheckoutOutput, ApiError> {
    let tenant = caller.tenant_or_asked(input.tenant)?;
    let request =
        CheckoutRequest { price_id: input.price_id, success_url: input.success_url, cancel_url: input.cancel_url };
    let page = state.payments.checkout(origin, tenant, email(caller).as_deref(), &request).await?;
    Ok(CheckoutOutput { url: page.url, session_id: page.session_id })
}

/// `billing.creditsCheckout`
async fn credits_checkout(cx: Context, input: CheckoutInput) -> Result<CheckoutOutput, ApiError> {
    checkout(&cx.state, &cx.origin, cx.caller()?, input).await
}

/// Where to return to from the provider's pages.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct PortalInput {
    #[schema(value_type = Option<String>)]
    tenant: Option<TenantId>,
    return_url: String,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct PortalOutput {
    url: String,
}

/// `billing.portalSession`
async fn portal_session(cx: Context, input: PortalInput) -> Result<PortalOutput, ApiError> {
    let tenant = cx.tenant(input.tenant)?;
    Ok(PortalOutput { url: cx.state.payments.portal(tenant, &input.return_url).await? })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BillingInfoOutput {
    email: String,
    payment_methods: Vec<PaymentMethodOutput>,
    invoices: Vec<InvoiceOutput>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PaymentMethodOutput {
    id: String,
    brand: String,
    last4: String,
    expiry_month: i64,
    expiry_year: i64,
    is_default: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InvoiceOutput {
    id: String,
    date: String,
    amount_cents: i64,
    status: String,
    download_url: String,
}

/// `billing.billingInfo`
async fn billing_info(cx: Context, _input: NoInput) -> Result<BillingInfoOutput, ApiError> {
    let info = cx.state.payments.billing_info(cx.tenant(None)?).await?;
    Ok(BillingInfoOutput {
        email: info.email.unwrap_or_default(),
        payment_methods: info
            .payment_methods
            .into_iter()
            .map(|saved| PaymentMethodOutput {
                id: saved.method.id,
                brand: saved.method.brand,
                last4: saved.method.last4.unwrap_or_default(),
                expiry_month: saved.method.expiry_month.unwrap_or(0),
                expiry_year: saved.method.expiry_year.unwrap_or(0),
                is_default: saved.is_default,
            })
            .collect(),
        invoices: info
            .invoices
            .into_iter()
            .map(|invoice| InvoiceOutput {
                id: invoice.id,
                date: invoice.created_at.to_string(),
                amount_cents: invoice.amount_due,
                status: invoice.status.unwrap_or_default(),
                download_url: invoice.download_url.unwrap_or_default(),
            })
            .collect(),
    })
}

#[derive(Debug, Deserialize, Serialize)]
struct EmailBody {
    email: String,
}

/// `billing.updateBillingEmail`
async fn update_billing_email(cx: Context, input: EmailBody) -> Result<EmailBody, ApiError> {
    let tenant = cx.tenant(None)?;
    Ok(EmailBody { email: cx.state.payments.update_billing_email(&cx.origin, tenant, &input.email).await? })
}

#[derive(Debug, Deserialize)]
struct MethodInput {
    id: String,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Removed {
    removed: bool,
}

/// `billing.removePaymentMethod`
async fn remove_payment_method(cx: Context, input: MethodInput) -> Result<Removed, ApiError> {
    cx.state.payments.remove_payment_method(&cx.origin, cx.tenant(None)?, &input.id).await?;
    Ok(Removed { removed: true })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UnmatchedOutput {
    id: UnmatchedPaymentId,
    reference: String,
    payment_intent_id: Option<String>,
    customer_id: Option<String>,
    email: Option<String>,
    paid_cents: i64,
    currency: String,
    reason: &'static str,
    paid_at: i64,
}

impl From<UnmatchedPayment> for UnmatchedOutput {
    fn from(payment: UnmatchedPayment) -> Self {
        Self {
            id: payment.id,
            reference: payment.reference,
            payment_intent_id: payment.payment_intent_id,
            customer_id: payment.customer_id,
            email: payment.email,
            paid_cents: payment.paid_cents,
            currency: payment.currency,
            reason: payment.reason.as_str(),
            paid_at: payment.paid_at.as_millisecond(),
        }
    }
}

/// `admin.unmatchedPayments`
async fn unmatched_payments(cx: Context, _input: NoInput) -> Result<Vec<UnmatchedOutput>, ApiError> {
    Ok(cx.state.payments.unmatched().await?.into_iter().map(UnmatchedOutput::from).collect())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AssignInput {
    id: UnmatchedPaymentId,
    tenant_id: TenantId,
    /// What it is worth, where it is not in US dollars.
    credit_cents: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Assigned {
    credited_cents: i64,
}

/// `admin.assignUnmatchedPayment`
async fn assign_unmatched_payment(cx: Context, input: AssignInput) -> Result<Assigned, ApiError> {
    let credit = input.credit_cents.map(Money::try_from_cents).transpose();
    let credit = credit.map_err(|_| ApiError::bad_request("The amount is out of range"))?;
    let credited = cx.state.payments.assign_unmatched(&cx.origin, input.id, input.tenant_id, credit).await?;
    Ok(Assigned { credited_cents: credited.as_cents_rounded() })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadWebhookOutput {
    id: WebhookId,
    event_id: String,
    event_type: String,
    attempts: i32,
    last_error: Option<String>,
    received_at: i64,
    given_up_at: i64,
}

impl From<DeadEvent> for DeadWebhookOutput {
    fn from(event: DeadEvent) -> Self {
        Self {
            id: event.id,
            event_id: event.event_id,
            event_type: event.kind,
            attempts: event.attempts,
            last_error: event.last_error,
            received_at: event.received_at.as_millisecond(),
            given_up_at: event.given_up_at.as_millisecond(),
        }
    }
}

/// `admin.deadWebhooks`
async fn dead_webhooks(cx: Context, _input: NoInput) -> Result<Vec<DeadWebhookOutput>, ApiError> {
    Ok(cx.state.payments.dead_webhooks().await?.into_iter().map(DeadWebhookOutput::from).collect())
}

#[derive(Debug, Deserialize)]
struct RetryInput {
    id: WebhookId,
}

#[derive(Debug, Serialize)]
struct Retried {
    retried: bool,
}

/// `admin.retryWebhook`
async fn retry_webhook(cx: Context, input: RetryInput) -> Result<Retried, ApiError> {
    cx.state.payments.retry_webhook(&cx.origin, input.id).await?;
    Ok(Retried { retried: true })
}

/// What became of a webhook.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct WebhookOutput {
    /// Whether it meant something to us and that was done.
    handled: bool,
    event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// What was credited for a purchase just now, in cents.
    #[serde(skip_serializing_if = "Option::is_none")]
    credited: Option<i64>,
    /// Present and true when the same event was received before.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
}

/// Takes the payment provider's events. The signature over the raw body is the credential.
#[utoipa::path(
    post, path = "/api/billing/webhook", tag = "billing",
    request_body(content = String, content_type = "application/json"),
    responses(
        (status = 200, description = "Kept, and done if possible", body = WebhookOutput),
        (status = 400, description = "No or a bad signature, or no event"),
        (status = 429, description = "A bad signature from a sender of several"),
        (status = 503, description = "Not kept; send it again"),
    ),
    security(())
)]
async fn webhook(State(state): State<AppState>, parts: Parts, body: Body) -> Result<Json<WebhookOutput>, ApiError> {
    let signature = parts.headers.get("stripe-signature").and_then(|value| value.to_str().ok());
    let signature =
        signature.ok_or_else(|| ApiError::bad_request("Missing stripe-signature header").code("MISSING_SIGNATURE"))?;
    let body = read_body(&parts.extensions, body).await?;
    let address = parts.extensions.get::<ClientAddress>().and_then(|address| address.0);
    let received = state.payments.receive_webhook(address, signature, &body).await?;
    Ok(Json(WebhookOutput {
        handled: received.handled,
        event_type: received.event_type,
        tenant: received.tenant,
        credited: received.credited.map(Money::as_cents_rounded),
        duplicate: received.duplicate.then_some(true),
    }))
}

/// Makes a page on which a tenant pays one pack.
#[utoipa::path(
    post, path = "/api/billing/credits/checkout", tag = "billing", request_body = CheckoutInput,
    responses((status = 200, body = CheckoutOutput)),
    security(("bearer" = ["admin"]), ("session" = []))
)]
async fn rest_checkout(
    State(state): State<AppState>,
    AdminCaller(caller): AdminCaller,
    parts: Parts,
    Json(input): Json<CheckoutInput>,
) -> Result<Json<CheckoutOutput>, ApiError> {
    let origin = origin(&parts, Some(&caller));
    Ok(Json(checkout(&state, &origin, &caller, input).await?))
}

/// Makes a page on which a tenant manages what is saved.
#[utoipa::path(
    post, path = "/api/billing/portal", tag = "billing", request_body = PortalInput,
    responses((status = 200, body = PortalOutput)),
    security(("bearer" = ["admin"]), ("session" = []))
)]
async fn rest_portal(
    State(state): State<AppState>,
    AdminCaller(caller): AdminCaller,
    Json(input): Json<PortalInput>,
) -> Result<Json<PortalOutput>, ApiError> {
    let tenant = caller.tenant_or_asked(input.tenant)?;
    Ok(Json(PortalOutput { url: state.payments.portal(tenant, &input.return_url).await? }))
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct SetupIntentOutput {
    client_secret: String,
}

/// Begins saving a payment method.
#[utoipa::path(
    post, path = "/api/billing/setup-intent", tag = "billing",
    responses((status = 200, body = SetupIntentOutput)),
    security(("bearer" = ["admin"]), ("session" = []))
)]
async fn rest_setup_intent(
    State(state): State<AppState>,
    AdminCaller(caller): AdminCaller,
) -> Result<Json<SetupIntentOutput>, ApiError> {
    let tenant = caller.tenant_id.ok_or_else(|| ApiError::bad_request("Missing tenant"))?;
    let client_secret = state.payments.setup_intent(tenant, email(&caller).as_deref()).await?;
    Ok(Json(SetupIntentOutput { client_secret }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
struct TenantQuery {
    /// Only for an operator's credential, which is bound to no tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantId>,
}

/// Removes a saved payment method.
#[utoipa::path(
    delete, path = "/api/billing/payment-methods/{id}", tag = "billing",
    params(("id" = String, Path, description = "`pm_…`"), TenantQuery),
    responses((status = 200, body = Removed)),
    security(("bearer" = ["admin"]), ("session" = []))
)]
async fn rest_remove_payment_method(
    State(state): State<AppState>,
    AdminCaller(caller): AdminCaller,
    parts: Parts,
    Path(id): Path<String>,
    Query(query): Query<TenantQuery>,
) -> Result<Json<Removed>, ApiError> {
    let tenant = caller.tenant_or_asked(query.tenant)?;
    let name = id.strip_prefix("pm_").unwrap_or_default();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(ApiError::bad_request("Invalid payment method id").code("INVALID_ID"));
    }
    let origin = origin(&parts, Some(&caller));
    state.payments.remove_payment_method(&origin, tenant, &id).await?;
    Ok(Json(Removed { removed: true }))
}
