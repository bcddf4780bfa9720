use std::time::Duration;

use uuid::Uuid;

use super::journal::JournalError;
use super::limits::CapReached;
use super::model::Capability;
use super::once::IdempotencyError;
use super::tenant_keys::TenantKeyError;
use super::wire::WireError;
use crate::auth::AuthError;
use crate::billing::BillingError;
use crate::db::DbError;
use crate::money::{Money, MoneyOverflow};
use crate::vault::VaultError;

/// Why a call was not answered. Nobody was charged.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// No key was presented.
    #[error("no service key was presented")]
    MissingKey,
    /// What was presented is no bearer.
    #[error("the credential is not of the form `Bearer <service key>`")]
    MalformedKey,
    /// The key lets nobody in.
    #[error("the service key is not valid")]
    InvalidKey,
    /// The tenant may not call at present.
    #[error("the account is suspended")]
    AccountSuspended,
    /// The tenant may not call any more.
    #[error("the account is banned")]
    AccountBanned,
    /// Too many calls of this kind.
    #[error("too many requests: the limit is {limit} a minute")]
    RateLimited {
        /// Calls in a minute.
        limit: u32,
        /// When to try again.
        retry_after: Duration,
    },
    /// The bot called so often that it was paused.
    #[error("too many requests in a short time: this bot is paused")]
    CircuitOpen {
        /// When the pause ends.
        retry_after: Duration,
    },
    /// The request makes no sense.
    #[error(transparent)]
    Request(#[from] WireError),
    /// Nobody offers the model for this.
    #[error("the model `{model}` does not exist for {capability}")]
    UnknownModel {
        /// What was asked for.
        model: String,
        /// What it was asked to do.
        capability: Capability,
    },
    /// No such price holds now.
    #[error("there is no price {0} that holds")]
    PriceNotFound(Uuid),
    /// A key of the tenant's own.
    #[error(transparent)]
    TenantKey(TenantKeyError),
    /// Keys cannot be sealed or opened.
    #[error(transparent)]
    Vault(VaultError),
    /// What the tenant allows itself is used up.
    #[error("the monthly spending limit is reached")]
    SpendingCap(CapReached),
    /// The credit does not cover what the call may cost.
    #[error("{required} is needed and {available} is available")]
    InsufficientCredit {
        /// What could have been spent.
        available: Money,
        /// What the call may cost at most.
        required: Money,
    },
    /// The call is to be made once, and is not made now.
    #[error(transparent)]
    Idempotency(#[from] IdempotencyError),
    /// Everybody who could answer is away or has too much to do.
    #[error("no provider can answer at present")]
    NoProvider {
        /// When it may be worth trying again.
        retry_after: Option<Duration>,
    },
    /// Everybody who was asked failed.
    #[error("the provider did not answer")]
    ProviderFailed,
    /// Everybody who was asked took too long.
    #[error("the provider took too long")]
    ProviderTimedOut,
    /// The provider refuses this request.
    #[error("the provider refused the request: {message}")]
    ProviderRefused {
        /// Its status, a 4xx.
        status: u16,
        /// What is wrong, fit to be shown.
        message: String,
    },
    /// What is charged cannot be written down at present: no call is let in.
    #[error("calls cannot be accounted for at present")]
    Unaccountable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An amount of money is out of range.
    #[error(transparent)]
    Overflow(#[from] MoneyOverflow),
    /// Billing refused in a way that a call cannot cause.
    #[error("billing failed")]
    Billing(#[source] BillingError),
    /// PostgreSQL could not answer.
    #[error("gateway storage failed")]
    Storage(#[from] DbError),
}

impl From<JournalError> for GatewayError {
    fn from(error: JournalError) -> Self {
        Self::Unaccountable(Box::new(error))
    }
}

impl From<AuthError> for GatewayError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Storage(error) => Self::Storage(error),
            other => Self::Unaccountable(Box::new(other)),
        }
    }
}

impl From<BillingError> for GatewayError {
    fn from(error: BillingError) -> Self {
        match error {
            BillingError::InsufficientCredit { available, required } => {
                Self::InsufficientCredit { available, required }
            }
            BillingError::AccountSuspended { .. } => Self::AccountSuspended,
            BillingError::AccountBanned => Self::AccountBanned,
            BillingError::Overflow(error) => Self::Overflow(error),
            BillingError::Storage(error) => Self::Storage(error),
            other => Self::Billing(other),
        }
    }
}
