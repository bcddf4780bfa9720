use jiff::SignedDuration;

use super::ports::ProviderError;
use crate::billing::BillingError;
use crate::db::DbError;
use crate::ids::{UnmatchedPaymentId, WebhookId};

/// Why a payment operation was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum PaymentsError {
    /// No payment provider is configured.
    #[error("billing is not configured")]
    Disabled,
    /// The price is none of the packs on sale.
    #[error("the price is not on sale")]
    UnknownPrice,
    /// The address is not one of ours.
    #[error("the redirect address is not allowed")]
    RedirectNotAllowed,
    /// No such tenant.
    #[error("the tenant does not exist")]
    TenantNotFound,
    /// The tenant has never paid or saved a payment method.
    #[error("the tenant has no billing account")]
    NoBillingAccount,
    /// The payment method does not exist or belongs to somebody else.
    #[error("the payment method is not one of this tenant's")]
    PaymentMethodNotOwned,
    /// The last payment method stays while money is owed or disputed.
    #[error("the last payment method cannot be removed while money is owed")]
    LastPaymentMethod,
    /// The text is not an e-mail address.
    #[error("not an e-mail address")]
    InvalidEmail,
    /// The webhook is not signed by the provider, or was signed too long ago or ahead.
    #[error("the webhook's signature is not valid")]
    BadSignature,
    /// The webhook is not signed by the provider, and its sender has sent such before.
    #[error("the sender is blocked for {retry_after:#}")]
    SenderBlocked {
        /// When it may try again.
        retry_after: SignedDuration,
    },
    /// The webhook is signed, but is no event.
    #[error("the webhook's body is not an event")]
    MalformedEvent,
    /// No such webhook was given up.
    #[error("{0} was not given up")]
    DeadWebhookNotFound(WebhookId),
    /// No such unmatched payment.
    #[error("{0} does not exist")]
    UnmatchedPaymentNotFound(UnmatchedPaymentId),
    /// The unmatched payment was given to another tenant.
    #[error("{0} was assigned to another tenant")]
    AlreadyAssigned(UnmatchedPaymentId),
    /// A payment in another currency needs a person to say what it is worth.
    #[error("the credit for a payment that is not in US dollars must be given")]
    CreditRequired,
    /// An amount is negative, zero or too large.
    #[error("an amount is out of range")]
    AmountOutOfRange,
    /// The provider did not do what was asked.
    #[error("the payment provider failed")]
    Provider(#[from] ProviderError),
    /// The ledger refused or failed.
    #[error("posting to the ledger failed")]
    Billing(#[from] BillingError),
    /// PostgreSQL could not answer; nothing was changed.
    #[error("payment storage failed")]
    Storage(#[from] DbError),
}

impl From<crate::money::MoneyOverflow> for PaymentsError {
    fn from(_: crate::money::MoneyOverflow) -> Self {
        Self::AmountOutOfRange
    }
}
