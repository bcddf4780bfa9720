use axum::http::StatusCode;
use serde_json::json;
use wopr_core::billing::BillingError;

use super::ApiError;

/// Where a customer adds credit, below the user interface's address.
const BUY_PATH: &str = "/dashboard/credits";

impl From<BillingError> for ApiError {
    fn from(error: BillingError) -> Self {
        match error {
            BillingError::InsufficientCredit { available, required } => {
                let (balance, required) = (available.as_cents_floor(), required.as_cents_rounded());
                Self::new(StatusCode::PAYMENT_REQUIRED, "INSUFFICIENT_CREDITS", "Insufficient credits")
                    .detail("balance", balance)
                    .detail("required", required)
                    .detail("buyUrl", BUY_PATH)
                    .contract_body(json!({
                        "error": "insufficient_credits", "balance": balance, "required": required, "buyUrl": BUY_PATH,
                    }))
            }
            BillingError::AccountSuspended { reason } => {
                let message = "This account is suspended";
                Self::forbidden(message)
                    .code("ACCOUNT_SUSPENDED")
                    .detail("reason", reason.as_str())
                    .contract_body(json!({ "error": "account_suspended", "message": message }))
            }
            BillingError::AccountBanned => {
                let message = "This account is closed";
                Self::forbidden(message)
                    .code("ACCOUNT_BANNED")
                    .contract_body(json!({ "error": "account_banned", "message": message }))
            }
            BillingError::TenantNotFound(_) => Self::not_found("No such tenant"),
            BillingError::HoldNotFound(_) => Self::not_found("No such hold"),
            BillingError::ExceedsHold { .. } => Self::conflict(error.to_string()).code("EXCEEDS_HOLD"),
            BillingError::Transition(refused) => Self::bad_request(refused.to_string()).code("WRONG_STATE"),
            BillingError::KeyConflict { .. } => {
                Self::conflict("This operation id was used for something else").code("OPERATION_CONFLICT")
            }
            BillingError::InvalidTransfer { why, .. } => Self::bad_request(format!("Not possible: {why}")),
            BillingError::NotConfirmed => {
                Self::bad_request("The confirmation does not match").code("CONFIRMATION_MISMATCH")
            }
            BillingError::Overflow(_) => Self::bad_request("The amount is out of range"),
            BillingError::Storage(error) => error.into(),
        }
    }
}
