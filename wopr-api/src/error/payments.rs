use axum::http::StatusCode;
use wopr_core::billing::payments::{PaymentsError, ProviderError};

use super::ApiError;

impl From<PaymentsError> for ApiError {
    fn from(error: PaymentsError) -> Self {
        match error {
            PaymentsError::Disabled => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "billing_disabled",
                "Billing is not configured on this server",
            ),
            PaymentsError::UnknownPrice => Self::bad_request("Unknown price").code("UNKNOWN_PRICE"),
            PaymentsError::RedirectNotAllowed => Self::bad_request("Invalid redirect URL").code("INVALID_REDIRECT_URL"),
            PaymentsError::TenantNotFound => Self::not_found("No such tenant"),
            PaymentsError::NoBillingAccount => Self::not_found("No billing account found").code("NO_BILLING_ACCOUNT"),
            PaymentsError::PaymentMethodNotOwned => {
                Self::forbidden("This payment method is not yours").code("PAYMENT_METHOD_NOT_OWNED")
            }
            PaymentsError::LastPaymentMethod => {
                Self::forbidden("The last payment method cannot be removed while money is owed")
                    .code("LAST_PAYMENT_METHOD")
            }
            PaymentsError::InvalidEmail => Self::bad_request("Invalid email address").code("INVALID_EMAIL"),
            PaymentsError::BadSignature => Self::bad_request("Invalid webhook signature").code("INVALID_SIGNATURE"),
            PaymentsError::SenderBlocked { retry_after } => {
                let seconds = u64::try_from(retry_after.as_secs()).unwrap_or(0).saturating_add(1);
                Self::new(StatusCode::TOO_MANY_REQUESTS, "SENDER_BLOCKED", "Too many webhooks with a bad signature")
                    .retry_after(seconds)
            }
            PaymentsError::MalformedEvent => Self::bad_request("The body is not an event").code("MALFORMED_EVENT"),
            PaymentsError::DeadWebhookNotFound(_) => Self::not_found("No such webhook was given up"),
            PaymentsError::UnmatchedPaymentNotFound(_) => Self::not_found("No such unmatched payment"),
            PaymentsError::AlreadyAssigned(_) => {
                Self::conflict("This payment was assigned to another tenant").code("ALREADY_ASSIGNED")
            }
            PaymentsError::CreditRequired => {
                Self::bad_request("Say what a payment that is not in US dollars is worth").code("CREDIT_REQUIRED")
            }
            PaymentsError::AmountOutOfRange => Self::bad_request("The amount is out of range"),
            PaymentsError::Provider(error) => provider(error),
            PaymentsError::Billing(error) => error.into(),
            PaymentsError::Storage(error) => error.into(),
        }
    }
}

fn provider(error: ProviderError) -> ApiError {
    match error {
        ProviderError::Unavailable(_) => {
            ApiError::unavailable("The payment provider cannot be reached").code("PROVIDER_UNAVAILABLE").because(error)
        }
        // What it says is about our account or our request, and none of the caller's business.
        ProviderError::NotFound
        | ProviderError::Refused { .. }
        | ProviderError::Unauthorized
        | ProviderError::Protocol(_) => {
            ApiError::new(StatusCode::BAD_GATEWAY, "PROVIDER_ERROR", "The payment provider refused the request")
                .because(error)
        }
    }
}
