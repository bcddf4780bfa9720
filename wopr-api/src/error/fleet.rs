use axum::http::StatusCode;
use wopr_core::billing::BillingError;
use wopr_core::fleet::{FleetError, HostError};

use super::{ApiError, Issue};

/// Where customers buy credit, as clients know it.
const BUY_URL: &str = "/dashboard/credits";

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::NotFound(_) => Self::not_found("Bot not found"),
            FleetError::Invalid(invalid) => Self::invalid_input(vec![Issue::field(invalid.field, invalid.rule)]),
            FleetError::InvalidImage => Self::invalid_input(vec![Issue::field("image", "not an image reference")]),
            FleetError::ImageNotAllowed(image) => {
                Self::invalid_input(vec![Issue::field("image", format!("{image} may not be run"))])
            }
            FleetError::NameTaken(name) => {
                Self::conflict(format!("A bot named {name} exists already")).code("NAME_TAKEN")
            }
            FleetError::IdTaken(_) => Self::conflict("The id is taken").code("ID_TAKEN"),
            FleetError::Busy(_) | FleetError::NotStill(_) => Self::unavailable("The bot is being worked on"),
            FleetError::NothingToChange => Self::bad_request("No fields to update"),
            FleetError::Billing(error) => billing(error),
            FleetError::Host(error) => host(error),
            FleetError::Storage(error) => Self::from(error),
        }
    }
}

/// What stands between a bot and running, in the words of the fleet's contract.
fn billing(error: BillingError) -> ApiError {
    match error {
        BillingError::InsufficientCredit { available, required } => {
            let (balance, required) = (available.as_cents_floor(), required.as_cents_rounded());
            ApiError::new(StatusCode::PAYMENT_REQUIRED, "PAYMENT_REQUIRED", "Insufficient credits")
                .detail("balance", balance)
                .detail("required", required)
                .detail("buyUrl", BUY_URL)
                .contract_body(serde_json::json!({
                    "error": "insufficient_credits", "balance": balance, "required": required, "buyUrl": BUY_URL,
                }))
        }
        BillingError::AccountSuspended { .. } => {
            ApiError::forbidden("The account is suspended").code("ACCOUNT_SUSPENDED")
        }
        BillingError::AccountBanned => ApiError::forbidden("The account is banned").code("ACCOUNT_BANNED"),
        BillingError::TenantNotFound(_) => ApiError::not_found("Tenant not found"),
        BillingError::Storage(error) => ApiError::from(error),
        error @ (BillingError::HoldNotFound(_)
        | BillingError::ExceedsHold { .. }
        | BillingError::Transition(_)
        | BillingError::KeyConflict { .. }
        | BillingError::InvalidTransfer { .. }
        | BillingError::NotConfirmed
        | BillingError::Overflow(_)) => ApiError::internal(error),
    }
}

fn host(error: HostError) -> ApiError {
    match error {
        HostError::Unreachable(_) | HostError::TimedOut(_) | HostError::NoSpace(_) | HostError::LostSight(_) => {
            ApiError::unavailable("The container engine cannot be asked at the moment").because(error)
        }
        HostError::NotFound(_) => ApiError::not_found("The bot has no container at the moment"),
        HostError::ImageUnavailable { .. } | HostError::Refused(_) | HostError::SubnetTaken(_) => {
            ApiError::new(StatusCode::BAD_GATEWAY, "BAD_GATEWAY", "The container engine refused").because(error)
        }
    }
}
