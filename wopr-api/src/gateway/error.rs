//! One refusal, three shapes.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use wopr_core::gateway::{Capability, GatewayError, IdempotencyError, TenantKeyError};
use wopr_core::money::Money;

use super::Protocol;
use crate::error::{chain, render};

/// Why a call is not answered, as a client is told.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    details: Vec<(&'static str, Value)>,
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, kind, code, message: message.into(), retry_after: None, details: Vec::new() }
    }

    fn after(mut self, pause: Option<Duration>) -> Self {
        self.retry_after = pause;
        self
    }

    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed", "This method is not allowed here")
    }

    pub(super) fn too_large(most: usize) -> Self {
        let message = format!("The body is longer than {} MiB", most >> 20);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, "request_too_large", message)
    }

    pub(super) fn cut_off() -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, "bad_request", "The body ended too early")
    }

    pub(super) fn slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, "request_timeout", "The body took too long to arrive")
    }

    pub(super) fn no_model(id: &str) -> Self {
        let message = format!("The model `{id}` does not exist");
        Self::new(StatusCode::NOT_FOUND, INVALID, "model_not_found", message)
    }
}

const INVALID: &str = "invalid_request_error";

impl From<GatewayError> for Refusal {
    fn from(error: GatewayError) -> Self {
        let message = sentence(&error.to_string());
        let unauthorized = |code| Self::new(StatusCode::UNAUTHORIZED, "authentication_error", code, message.clone());
        let cents = |money: Money| money.as_cents_rounded();
        match &error {
            GatewayError::MissingKey => unauthorized("missing_api_key"),
            GatewayError::MalformedKey => unauthorized("invalid_auth_format"),
            GatewayError::InvalidKey => unauthorized("invalid_api_key"),
            GatewayError::AccountSuspended => {
                Self::new(StatusCode::FORBIDDEN, "permission_error", "account_suspended", message)
            }
            GatewayError::AccountBanned => {
                Self::new(StatusCode::FORBIDDEN, "permission_error", "account_banned", message)
            }
            GatewayError::RateLimited { retry_after, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", message)
                    .after(Some(*retry_after))
            }
            GatewayError::CircuitOpen { retry_after } => {
                let remaining_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "circuit_breaker_tripped", message)
                    .after(Some(*retry_after))
                    .with("remaining_ms", remaining_ms)
            }
            GatewayError::Request(wire) => {
                let refusal = Self::new(StatusCode::BAD_REQUEST, INVALID, wire.code(), message);
                match wire.field() {
                    Some(field) => refusal.with("param", field),
                    None => refusal,
                }
            }
            GatewayError::UnknownModel { .. } => {
                Self::new(StatusCode::NOT_FOUND, INVALID, "model_not_found", message).with("param", "model")
            }
            GatewayError::SpendingCap(reached) => {
                Self::new(StatusCode::PAYMENT_REQUIRED, "billing_error", "spending_cap_exceeded", message)
                    .with("cap_type", "monthly")
                    .with("capability", reached.capability.map(Capability::as_str))
                    .with("current_spend_cents", cents(reached.spent))
                    .with("cap_cents", reached.cap_cents)
                    .with("settings_url", "/dashboard/settings")
            }
            GatewayError::InsufficientCredit { available, required } => {
                let code = if available.is_positive() { "insufficient_credits" } else { "credits_exhausted" };
                Self::new(StatusCode::PAYMENT_REQUIRED, "billing_error", code, message)
                    .with("needsCredits", true)
                    .with("topUpUrl", "/dashboard/credits")
                    .with("currentBalanceCents", cents(*available))
                    .with("requiredCents", cents(*required).max(1))
            }
            GatewayError::Idempotency(IdempotencyError::InvalidKey) => {
                Self::new(StatusCode::BAD_REQUEST, INVALID, "invalid_idempotency_key", message)
            }
            GatewayError::Idempotency(IdempotencyError::InProgress) => {
                Self::new(StatusCode::CONFLICT, "idempotency_error", "idempotency_in_progress", message)
                    .after(Some(Duration::from_secs(1)))
            }
            GatewayError::Idempotency(IdempotencyError::AnswerTooLong) => {
                Self::new(StatusCode::CONFLICT, "idempotency_error", "idempotency_answer_not_kept", message)
            }
            GatewayError::Idempotency(IdempotencyError::OtherRequest) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_error", "idempotency_key_reused", message)
            }
            // What the tenant's own account cannot do is told as its provider told it; nobody else is asked instead.
            GatewayError::TenantKey(TenantKeyError::Refused { status, retry_after, .. }) => {
                let status = StatusCode::from_u16(*status).ok().filter(StatusCode::is_client_error);
                Self::new(status.unwrap_or(StatusCode::BAD_REQUEST), INVALID, "own_key_refused", message)
                    .after(*retry_after)
            }
            GatewayError::TenantKey(_) => Self::new(StatusCode::BAD_REQUEST, INVALID, "own_key_missing", message),
            GatewayError::NoProvider { retry_after } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_provider_available", message)
                    .after(*retry_after)
            }
            GatewayError::ProviderFailed => {
                Self::new(StatusCode::BAD_GATEWAY, "server_error", "upstream_error", message)
            }
            GatewayError::ProviderTimedOut => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "upstream_timeout", message)
            }
            GatewayError::ProviderRefused { status, .. } => {
                let status = StatusCode::from_u16(*status).ok().filter(StatusCode::is_client_error);
                Self::new(status.unwrap_or(StatusCode::BAD_REQUEST), INVALID, "provider_error", message)
            }
            GatewayError::Unaccountable(_) | GatewayError::Storage(_) => {
                tracing::warn!("a call was not let in: {}", chain(&error));
                let message = "Calls cannot be accounted for at present; try again soon";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "service_unavailable", message)
                    .after(Some(Duration::from_secs(2)))
            }
            GatewayError::Overflow(_)
            | GatewayError::Billing(_)
            | GatewayError::Vault(_)
            | GatewayError::PriceNotFound(_) => {
                tracing::error!("a call failed: {}", chain(&error));
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", "Something went wrong")
            }
        }
    }
}

/// With a capital letter at the beginning.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Writes a refusal as the protocol has it. `ui` makes the links whole.
pub(super) fn refuse(protocol: Protocol, refusal: &Refusal, ui: Option<&str>) -> Response {
    let status = match protocol {
        // The word that its clients know for "not now".
        Protocol::Anthropic if refusal.status == StatusCode::SERVICE_UNAVAILABLE => {
            StatusCode::from_u16(529).unwrap_or(refusal.status)
        }
        _ => refusal.status,
    };
    let mut error = match protocol {
        Protocol::Native => json!({ "message": refusal.message, "type": refusal.kind, "code": refusal.code }),
        Protocol::OpenAi => {
            let kind = if status == StatusCode::UNAUTHORIZED { INVALID } else { refusal.kind };
            json!({ "message": refusal.message, "type": kind, "param": null, "code": refusal.code })
        }
        Protocol::Anthropic => json!({ "type": anthropic_type(status), "message": refusal.message }),
    };
    for (name, value) in &refusal.details {
        let value = match (value, ui) {
            (Value::String(path), Some(ui)) if path.starts_with('/') => Value::from(format!("{ui}{path}")),
            _ => value.clone(),
        };
        error[*name] = value;
    }
    let body = match protocol {
        Protocol::Native | Protocol::OpenAi => json!({ "error": error }),
        Protocol::Anthropic => json!({ "type": "error", "error": error }),
    };
    let mut response = render::json_response(status, &body);
    if let Some(pause) = refusal.retry_after {
        let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 409 | 422 => "invalid_request_error",
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        _ => "api_error",
    }
}
