use axum::http::StatusCode;
use wopr_core::billing::BillingError;
use wopr_core::gateway::{GatewayError, TenantKeyError};

use super::ApiError;

/// What tenants and operators ask about calls; calls themselves have shapes of their own.
impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::MissingKey | GatewayError::MalformedKey | GatewayError::InvalidKey => {
                Self::unauthorized("Authentication required")
            }
            GatewayError::AccountSuspended => Self::forbidden(error.to_string()).code("ACCOUNT_SUSPENDED"),
            GatewayError::AccountBanned => Self::from(BillingError::AccountBanned),
            GatewayError::RateLimited { retry_after, .. } | GatewayError::CircuitOpen { retry_after } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS", error.to_string())
                    .retry_after(retry_after.as_secs().max(1))
            }
            GatewayError::Request(_) => Self::bad_request(error.to_string()),
            GatewayError::UnknownModel { .. } => Self::not_found(error.to_string()).code("MODEL_NOT_FOUND"),
            GatewayError::PriceNotFound(_) => Self::not_found(error.to_string()).code("PRICE_NOT_FOUND"),
            GatewayError::Idempotency(_) => Self::conflict(error.to_string()).code("IDEMPOTENCY"),
            GatewayError::SpendingCap(_) => {
                Self::new(StatusCode::PAYMENT_REQUIRED, "SPENDING_CAP_EXCEEDED", error.to_string())
            }
            GatewayError::InsufficientCredit { available, required } => {
                Self::from(BillingError::InsufficientCredit { available, required })
            }
            GatewayError::NoProvider { .. } | GatewayError::ProviderFailed | GatewayError::ProviderTimedOut => {
                Self::unavailable(error.to_string()).code("PROVIDER_UNAVAILABLE")
            }
            GatewayError::ProviderRefused { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "PROVIDER_ERROR", error.to_string())
            }
            GatewayError::Unaccountable(_) => {
                Self::unavailable("Calls cannot be accounted for at present").because(error)
            }
            GatewayError::Overflow(_) => Self::bad_request(error.to_string()).code("AMOUNT_OUT_OF_RANGE"),
            GatewayError::TenantKey(key) => match key {
                TenantKeyError::NotFound(_) => Self::not_found(key.to_string()).code("TENANT_KEY_NOT_FOUND"),
                TenantKeyError::Off => Self::unavailable(key.to_string()),
                TenantKeyError::Refused { .. } => Self::new(StatusCode::BAD_GATEWAY, "PROVIDER_ERROR", key.to_string()),
                TenantKeyError::InvalidKey
                | TenantKeyError::InvalidLabel
                | TenantKeyError::NoneServes(_)
                | TenantKeyError::Missing { .. } => Self::bad_request(key.to_string()).code("VALIDATION_ERROR"),
            },
            GatewayError::Vault(_) => Self::internal(error),
            GatewayError::Billing(error) => error.into(),
            GatewayError::Storage(error) => error.into(),
        }
    }
}
